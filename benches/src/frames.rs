//! Frames of trades for the benchmarks that need no node, and bare iceoryx2 to stand beside.

use iceoryx2::config::Config;
use iceoryx2::node::Node;
use iceoryx2::prelude::{FileName, NodeBuilder, SemanticString, ZeroCopySend, ipc};
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use matchtape_bus::BusName;
use matchtape_schemas::event::{TradeMatched, encode_event};
use matchtape_schemas::{
    AcceptedTime, Epoch, Event, EventTime, FrameFlags, FrameWriter, Head, InstrumentId, ProducerId,
    ProducerSequence, Sequence, TapeId, TradeId, Watermarks,
};

/// The tape of all benchmarks of the bus.
pub const TAPE: TapeId = TapeId(1);

/// What bare iceoryx2 carries: plain words, aligned as frames are.
#[derive(Clone, Copy, Debug, ZeroCopySend)]
#[repr(C)]
#[repr(align(16))]
pub struct Unit(pub [u64; 2]);

/// The sum of all 8-byte words: what a reader must have seen of every byte.
///
/// # Panics
/// Never: chunks of eight have eight bytes.
pub fn sum_words(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    words.fold(0, u64::wrapping_add)
}

/// All stages at `sequence`.
pub fn at(sequence: Sequence) -> Watermarks {
    Watermarks {
        accepted: sequence,
        written: sequence,
        durable: sequence,
        replicated: sequence,
        visible: sequence,
    }
}

/// Consecutive frames of trades of 128 bytes.
pub struct Frames {
    /// The tape after the last frame.
    pub head: Head,
    events: u64,
}

impl Frames {
    /// Frames of `events` trades each, from the beginning of a tape.
    pub fn new(events: u64) -> Self {
        Self { head: Head { epoch: Epoch(1), ..Head::empty(TAPE) }, events }
    }

    /// The next frame.
    ///
    /// # Panics
    /// When a frame cannot hold that many events.
    pub fn next_frame(&mut self) -> Vec<u8> {
        let mut out = vec![Unit([0; 2]); 4096 + 16];
        // SAFETY: units are plain words, aligned to 16, exclusively borrowed.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), size_of_val(&out[..])) };
        let (frame, event_out) = memory.split_at_mut(64 * 1024);
        let mut writer = FrameWriter::new(frame, &self.head);
        for index in 0..self.events {
            let sequence = self.head.last_sequence.get() + 1 + index;
            let trade = TradeMatched { trade_id: TradeId(sequence), ..TradeMatched::default() };
            let event = Event::new(InstrumentId(1), ProducerSequence(sequence), EventTime(1), trade);
            let bytes = &mut event_out[..event.encoded_len()];
            encode_event(&event, ProducerId(1), bytes);
            assert_eq!(bytes.len(), 128);
            assert!(writer.push(bytes));
        }
        let length = writer.finish(&mut self.head, AcceptedTime(1), FrameFlags::NONE).length as usize;
        frame[..length].to_vec()
    }
}

/// A bare iceoryx2 service.
pub type Bare = PortFactory<ipc::Service, [Unit], ()>;

/// What a bare service is sized for.
#[derive(Clone, Copy, Debug)]
pub struct BareSizes {
    /// Subscribers at the same time.
    pub subscribers: usize,
    /// Samples each may be behind.
    pub buffer: usize,
    /// Samples kept for who joins late.
    pub history: usize,
}

/// A publish-subscribe service of iceoryx2 without anything of ours, `called` so, in the same place as the bus.
pub fn bare(
    name: &BusName,
    called: &str,
    sizes: BareSizes,
) -> Result<(Bare, Node<ipc::Service>), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.global.prefix = FileName::new(b"mt_bench_bare_")?;
    config.global.set_root_path(&iceoryx2::prelude::Path::new(name.root().as_os_str().as_encoded_bytes())?);
    let node = NodeBuilder::new().config(&config).create::<ipc::Service>()?;
    let service = node
        .service_builder(&called.try_into()?)
        .publish_subscribe::<[Unit]>()
        .max_publishers(1)
        .max_subscribers(sizes.subscribers)
        .max_nodes(sizes.subscribers + 2)
        .subscriber_max_buffer_size(sizes.buffer)
        .subscriber_max_borrowed_samples(8)
        .history_size(sizes.history)
        .enable_safe_overflow(true)
        .open_or_create()?;
    Ok((service, node))
}

/// The publisher of a bare service.
pub type BarePublisher = iceoryx2::port::publisher::Publisher<ipc::Service, [Unit], ()>;

/// The subscriber of a bare service.
pub type BareSubscriber = iceoryx2::port::subscriber::Subscriber<ipc::Service, [Unit], ()>;

/// Sends a frame over bare iceoryx2.
pub fn send_bare(publisher: &BarePublisher, frame: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    assert!(frame.len().is_multiple_of(size_of::<Unit>()), "frames are a multiple of 16 bytes");
    let mut sample = publisher.loan_slice_uninit(frame.len() / size_of::<Unit>())?;
    let out = sample.payload_mut();
    // SAFETY: the loan is as long as the frame, which cannot overlap it; this initialises all of it.
    let sample = unsafe {
        std::ptr::copy_nonoverlapping(frame.as_ptr(), out.as_mut_ptr().cast::<u8>(), frame.len());
        sample.assume_init()
    };
    sample.send()?;
    Ok(())
}

/// What arrived, as bytes.
pub fn unit_bytes(units: &[Unit]) -> &[u8] {
    // SAFETY: units are plain words.
    unsafe { std::slice::from_raw_parts(units.as_ptr().cast::<u8>(), size_of_val(units)) }
}
