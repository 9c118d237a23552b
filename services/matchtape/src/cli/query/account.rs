//! `matchtape query account`

use clap::Args;
use matchtape_client::{AccountRow, as_of};
use matchtape_market::Accounts;
use matchtape_schemas::AccountId;
use matchtape_storage::Query;

use super::select::{Common, Place};
use crate::cli::error::CliError;
use crate::cli::position::{At, Position};

/// Accounts and their positions, one row per position. With --data only: a gateway shows nothing of them.
#[derive(Args, Debug)]
pub(super) struct AccountArgs {
    #[command(flatten)]
    common: Common,
    /// Only this account
    #[arg(long, value_name = "ID")]
    account: Option<u64>,
    /// As of this position: end, a sequence, or a time
    #[arg(long, value_name = "POSITION", default_value = "end")]
    at: At,
}

pub(super) fn run(args: &AccountArgs) -> Result<(), CliError> {
    let session = match args.common.open()? {
        Place::Data(session) => session,
        Place::Server(_) => {
            return Err(CliError::Usage(
                "accounts go with --data: they are private, a gateway does not show them".to_owned(),
            ));
        }
    };
    let account = args.account.map(AccountId);
    let through = match args.at {
        At::End => session.reader.visible(),
        At::Position(Position::Sequence(sequence)) => session.sequence(sequence)?,
        At::Position(Position::Time(time)) => {
            let scope = Query { account, kinds: Accounts::KINDS, ..Query::default() };
            as_of::prefix(&session.reader, &scope, time)?
        }
    };
    let accounts = as_of::accounts(&session.reader, through)?;
    let mut output = args.common.output();
    for one in accounts.iter().filter(|one| account.is_none_or(|wanted| one.id == wanted)) {
        for row in AccountRow::of(one, |instrument| session.name(instrument)) {
            output.write(&row)?;
        }
    }
    output.finish::<AccountRow>()?;
    Ok(())
}
