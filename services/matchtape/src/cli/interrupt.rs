//! Ctrl-C and SIGTERM as a flag to look at; the second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::error::CliError;

/// Installs the handlers; the flag is set by the first signal.
pub(super) fn flag() -> Result<Arc<AtomicBool>, CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| CliError::failed(format_args!("installing signal handlers: {error}")))?;
    }
    Ok(stop)
}
