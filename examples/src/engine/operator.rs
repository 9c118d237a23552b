//! What the operator of the engine does: instruments, accounts, sessions, trading status.

use matchtape_schemas::event::{
    AccountOpened, AccountStatus, CancelReason, InstrumentDefined, SessionClosed, SessionOpened, Side,
    TimeInForce, TradingStatus, TradingStatusChanged,
};
use matchtape_schemas::{AccountId, Event, EventTime, InstrumentId, Price};

use super::command::OperatorError;
use super::group::Group;
use super::{Book, Engine, Market, Session};

impl Engine {
    /// Adds an instrument, which may not be traded until its status says so.
    pub fn define_instrument(
        &mut self,
        definition: InstrumentDefined,
        now: EventTime,
        out: &mut Vec<Event>,
    ) -> Result<InstrumentId, OperatorError> {
        let symbol = definition.symbol.to_string();
        if self.markets.iter().any(|market| market.definition.symbol == definition.symbol) {
            return Err(OperatorError::SymbolTaken(symbol));
        }
        if definition.price_increment <= Price::ZERO || definition.quantity_increment.is_zero() {
            return Err(OperatorError::Increment(symbol));
        }
        let instrument = InstrumentId(self.markets.len() as u32 + 1);
        self.markets.push(Market {
            definition: definition.clone(),
            status: TradingStatus::Unknown,
            book: Book::default(),
        });
        let mut group = Group::begin(out, &mut self.numbers, instrument, now);
        group.say(definition);
        group.finish();
        Ok(instrument)
    }

    /// Sets what may be done in an instrument. Orders are taken in continuous trading only; they can always be
    /// cancelled.
    pub fn set_status(
        &mut self,
        instrument: InstrumentId,
        status: TradingStatus,
        now: EventTime,
        out: &mut Vec<Event>,
    ) -> Result<(), OperatorError> {
        let market = self
            .markets
            .get_mut(Self::place(instrument))
            .ok_or(OperatorError::UnknownInstrument(instrument))?;
        if market.status == status {
            return Err(OperatorError::StatusUnchanged { instrument, status });
        }
        market.status = status;
        let mut group = Group::begin(out, &mut self.numbers, instrument, now);
        group.say(TradingStatusChanged { status, ..Default::default() });
        group.finish();
        Ok(())
    }

    /// Opens an account.
    pub fn open_account(
        &mut self,
        account: AccountOpened,
        now: EventTime,
        out: &mut Vec<Event>,
    ) -> Result<(), OperatorError> {
        let id = account.account;
        if id == AccountId(0) || self.accounts.contains_key(&id) {
            return Err(OperatorError::AccountTaken(id));
        }
        self.accounts.insert(id, account.status);
        let mut group = Group::begin(out, &mut self.numbers, InstrumentId(0), now);
        group.say(account);
        group.finish();
        Ok(())
    }

    /// Begins a trading session.
    pub fn open_session(
        &mut self,
        session: Session,
        now: EventTime,
        out: &mut Vec<Event>,
    ) -> Result<(), OperatorError> {
        if let Some(Session { trading_day, number }) = self.session {
            return Err(OperatorError::SessionOpen { trading_day, session: number });
        }
        self.session = Some(session);
        let mut group = Group::begin(out, &mut self.numbers, InstrumentId(0), now);
        let Session { trading_day, number } = session;
        group.say(SessionOpened { trading_day, session: number, ..Default::default() });
        group.finish();
        Ok(())
    }

    /// Ends the trading session: day orders expire, in one group with the end.
    pub fn close_session(&mut self, now: EventTime, out: &mut Vec<Event>) -> Result<(), OperatorError> {
        let Session { trading_day, number } = self.session.take().ok_or(OperatorError::NoSession)?;
        let mut group = Group::begin(out, &mut self.numbers, InstrumentId(0), now);
        for (market, id) in self.markets.iter_mut().zip(1..) {
            group.about(InstrumentId(id));
            let expired: Vec<_> = [Side::Buy, Side::Sell]
                .into_iter()
                .flat_map(|side| market.book.orders(side))
                .filter(|order| order.time_in_force == TimeInForce::Day)
                .copied()
                .collect();
            self.resting -= expired.len();
            for order in expired {
                market.book.remove(order.id);
                group.cancelled(&order, CancelReason::Expired);
            }
        }
        group.about(InstrumentId(0));
        group.say(SessionClosed { trading_day, session: number, ..Default::default() });
        group.finish();
        Ok(())
    }

    pub(super) fn may_trade(&self, account: AccountId) -> bool {
        self.account(account) == Some(AccountStatus::Active)
    }
}
