//! Who waits to be woken. Whoever gives up waiting is forgotten: on an idle tape nobody else would be.

use std::collections::BTreeMap;
use std::task::Waker;

/// A place among those who wait.
pub(super) type Ticket = u64;

#[derive(Default)]
pub(super) struct Waiters {
    by_ticket: BTreeMap<Ticket, Waker>,
    tickets: u64,
}

impl Waiters {
    /// Waits, at the place it has or at a new one.
    pub(super) fn wait(&mut self, ticket: &mut Option<Ticket>, waker: &Waker) {
        let ticket = *ticket.get_or_insert_with(|| {
            self.tickets += 1;
            self.tickets
        });
        self.by_ticket.insert(ticket, waker.clone());
    }

    /// Waits no longer.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.by_ticket.remove(&ticket);
    }

    pub(super) fn wake(&mut self) {
        std::mem::take(&mut self.by_ticket).into_values().for_each(Waker::wake);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_ticket.len()
    }
}
