//! A member of a durable consumer at a gateway, for the command line: it attaches again by itself.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use matchtape_client::consumers::{
    Acknowledgement, ConsumerBatch, ConsumerItem, ConsumerView, MemberSession, Settled,
};

use matchtape_node::consumers::{ConsumerName, MemberName};

use crate::server::{Method, Server, ServerError};

/// The longest that one request waits: how soon an interruption is noticed.
const WAIT: Duration = Duration::from_millis(500);

/// A member of a consumer.
#[derive(Debug)]
pub struct Member<'s> {
    server: &'s Server,
    consumer: ConsumerName,
    member: MemberName,
    session: Option<String>,
    /// The last answer of this session that arrived.
    received: u64,
}

impl<'s> Member<'s> {
    /// A member; it attaches when it first asks for events.
    pub fn new(server: &'s Server, consumer: &ConsumerName, member: &MemberName) -> Self {
        Self { server, consumer: consumer.clone(), member: member.clone(), session: None, received: 0 }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/consumers/{}{rest}", self.consumer)
    }

    /// The consumer, as it stands.
    pub fn info(&self) -> Result<ConsumerView, ServerError> {
        self.server.object(&self.path(""), &[])
    }

    /// What there is, at most `batch`; empty when nothing came within `wait` (or half a second, if that is less). A gateway
    /// that is gone is waited for.
    pub fn next(
        &mut self,
        batch: u32,
        wait: Duration,
        stop: &AtomicBool,
        notice: &mut dyn FnMut(&str),
    ) -> Result<Vec<ConsumerItem>, ServerError> {
        let server = self.server;
        loop {
            let session = match &self.session {
                Some(session) => session.clone(),
                None => {
                    let path = self.path(&format!("/members/{}", self.member));
                    let attach =
                        |server: &Server| server.send::<MemberSession>(Method::Post, &path, &[], None::<&()>);
                    let attached = server.persistently(stop, notice, attach)?.answer;
                    self.received = 0;
                    self.session.insert(attached.session).clone()
                }
            };
            let parameters = [
                ("session", session),
                ("received", self.received.to_string()),
                ("batch", batch.to_string()),
                ("wait_ms", wait.min(WAIT).as_millis().to_string()),
            ];
            let path = self.path("/next");
            let ask =
                |server: &Server| server.send::<ConsumerBatch>(Method::Post, &path, &parameters, None::<&()>);
            match server.persistently(stop, notice, ask) {
                Ok(answered) => {
                    self.received = answered.answer.answer;
                    return Ok(answered.answer.items);
                }
                // The node was restarted, or did not hear of this member for too long.
                Err(ServerError::Refused { error, .. }) if error == "not_attached" => {
                    notice("not attached any more; attaching again");
                    self.session = None;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Says what became of events. Returns how many it settled.
    pub fn acknowledge(
        &self,
        said: &Acknowledgement,
        stop: &AtomicBool,
        notice: &mut dyn FnMut(&str),
    ) -> Result<u32, ServerError> {
        let path = self.path("/ack");
        let said = Acknowledgement { session: self.session.clone(), ..said.clone() };
        let say = |server: &Server| server.send::<Settled>(Method::Post, &path, &[], Some(&said));
        match self.server.persistently(stop, notice, say) {
            Ok(answered) => Ok(answered.answer.settled),
            // A node that was killed may have forgotten the deliveries of its last moments.
            Err(ServerError::Refused { error, what, .. }) if error == "ack_refused" => {
                notice(&format!("{what}; it comes again"));
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Detaches, so that others get what was not acknowledged at once. Without it they do after the member's timeout.
    pub fn detach(&mut self) {
        if let Some(session) = self.session.take() {
            let path = self.path(&format!("/sessions/{session}"));
            let _ = self.server.send::<Settled>(Method::Delete, &path, &[], None::<&()>);
        }
    }
}
