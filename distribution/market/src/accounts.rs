//! Accounts: who they are, what they may do, and their positions, as one snapshot section. All of it is private.
//!
//! Section `accounts`, version 1, little-endian: `u32` accounts, then each by ascending id:
//!
//! ```text
//! u64 account   u8 status   u64 opened at (0: not on this tape)   u64 changed at
//! u8 bytes of the name   name   u8 bytes of the firm's name   firm's name   u32 firm
//! u32 positions, then each by ascending instrument: u32 instrument   i64 position, units of 1e-9   u64 changed at
//! ```

use std::collections::BTreeMap;

use matchtape_schemas::event::AccountStatus;
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    AccountId, BodyRef, EventRef, InstrumentId, KindMask, ParticipantId, Projection, ProjectionError,
    Sequence,
};

use crate::section::{SectionReader, put_count, put_i64, put_u32, put_u64};

const NAME: &str = "accounts";
const VERSION: u32 = 1;

/// One account as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id on this tape.
    pub id: AccountId,
    /// What it may do.
    pub status: AccountStatus,
    /// The position of the event that introduced it; zero if none did.
    pub opened_at: Sequence,
    /// The position of the last event that changed it or one of its positions.
    pub changed_at: Sequence,
    /// Its name outside.
    pub name: Text<40>,
    /// The name of the member firm it belongs to.
    pub participant_name: Text<80>,
    /// The member firm it belongs to.
    pub participant: ParticipantId,
    /// By instrument; instrument zero is cash.
    pub positions: BTreeMap<InstrumentId, Position>,
}

/// What an account has of an instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// How much, signed, in units of 1e-9: as the last event stated it.
    pub units: i64,
    /// The position of that event.
    pub changed_at: Sequence,
}

/// Every account of a tape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    by_id: BTreeMap<AccountId, Account>,
}

impl Accounts {
    /// The kinds that change it.
    pub const KINDS: KindMask = KindMask::ACCOUNTS;

    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next event of the tape.
    pub fn apply(&mut self, event: &EventRef<'_>) {
        let at = event.sequence();
        match event.body() {
            BodyRef::AccountOpened(opened) => {
                let account = self.account(opened.account.get(), at);
                account.opened_at = at;
                account.status = opened.status.get();
                // As text, so that what a snapshot gives back is the same, whatever bytes came.
                account.name = clean(&opened.name.get());
                account.participant_name = clean(&opened.participant_name.get());
                account.participant = opened.participant.get();
            }
            BodyRef::AccountChanged(changed) => {
                self.account(changed.account.get(), at).status = changed.status.get();
            }
            BodyRef::PositionChanged(changed) => {
                let position = Position { units: changed.position.to_native(), changed_at: at };
                let account = self.account(changed.account.get(), at);
                account.positions.insert(event.instrument(), position);
            }
            _ => {}
        }
    }

    fn account(&mut self, id: AccountId, at: Sequence) -> &mut Account {
        let account = self.by_id.entry(id).or_insert_with(|| Account {
            id,
            status: AccountStatus::default(),
            opened_at: Sequence::ZERO,
            changed_at: at,
            name: Text::default(),
            participant_name: Text::default(),
            participant: ParticipantId::default(),
            positions: BTreeMap::new(),
        });
        account.changed_at = at;
        account
    }

    /// An account by its id.
    pub fn get(&self, id: AccountId) -> Option<&Account> {
        self.by_id.get(&id)
    }

    /// Every account, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = &Account> + '_ {
        self.by_id.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

/// The text that bytes from outside stand for. One whose signs of replacement take more room than the bytes did is cut.
fn clean<const N: usize>(text: &Text<N>) -> Text<N> {
    let shown = text.as_str();
    let mut end = shown.len().min(N);
    while !shown.is_char_boundary(end) {
        end -= 1;
    }
    Text::new(&shown[..end]).unwrap_or_default()
}

impl Projection for Accounts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        Self::apply(self, event);
    }

    fn save(&self, out: &mut Vec<u8>) {
        put_count(out, self.by_id.len());
        for account in self.by_id.values() {
            put_u64(out, account.id.get());
            out.push(account.status as u8);
            put_u64(out, account.opened_at.get());
            put_u64(out, account.changed_at.get());
            for text in [account.name.as_str(), account.participant_name.as_str()] {
                out.push(u8::try_from(text.len()).expect("at most 80 bytes"));
                out.extend_from_slice(text.as_bytes());
            }
            put_u32(out, account.participant.get());
            put_count(out, account.positions.len());
            for (instrument, position) in &account.positions {
                put_u32(out, instrument.get());
                put_i64(out, position.units);
                put_u64(out, position.changed_at.get());
            }
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        let mut reader = SectionReader::new(NAME, section);
        let mut restored = Self::new();
        for _ in 0..reader.count(ACCOUNT_BYTES_MIN)? {
            let account = restore_account(&mut reader)?;
            if restored.by_id.last_key_value().is_some_and(|(last, _)| *last >= account.id) {
                return Err(reader.error(format!("account {} is out of order", account.id)));
            }
            restored.by_id.insert(account.id, account);
        }
        reader.end()?;
        *self = restored;
        Ok(())
    }
}

const POSITION_BYTES: usize = 4 + 8 + 8;
const ACCOUNT_BYTES_MIN: usize = 8 + 1 + 8 + 8 + 1 + 1 + 4 + 4;

fn restore_account(reader: &mut SectionReader<'_>) -> Result<Account, ProjectionError> {
    let id = AccountId(reader.u64()?);
    let number = reader.u8()?;
    let status = AccountStatus::ALL.get(usize::from(number)).copied();
    let status = status.ok_or_else(|| reader.error(format!("account status {number}")))?;
    let (opened_at, changed_at) = (Sequence(reader.u64()?), Sequence(reader.u64()?));
    let (name, participant_name) = (restore_text(reader)?, restore_text(reader)?);
    let participant = ParticipantId(reader.u32()?);
    let mut positions = BTreeMap::new();
    for _ in 0..reader.count(POSITION_BYTES)? {
        let instrument = InstrumentId(reader.u32()?);
        if positions.last_key_value().is_some_and(|(last, _)| *last >= instrument) {
            return Err(reader.error(format!("the position in {instrument} is out of order")));
        }
        positions.insert(instrument, Position { units: reader.i64()?, changed_at: Sequence(reader.u64()?) });
    }
    Ok(Account { id, status, opened_at, changed_at, name, participant_name, participant, positions })
}

fn restore_text<const N: usize>(reader: &mut SectionReader<'_>) -> Result<Text<N>, ProjectionError> {
    let bytes = usize::from(reader.u8()?);
    let text = std::str::from_utf8(reader.take(bytes)?).map_err(|error| reader.error(error.to_string()))?;
    Text::new(text).map_err(|error| reader.error(error.to_string()))
}
