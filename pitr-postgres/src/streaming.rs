//! Streaming replication: slots, and the log as it is written.

mod message;
mod slot;
mod stream;

pub use slot::{ParseSlotNameError, SlotLifetime, SlotName, SlotPosition};
pub use stream::{NextTimeline, StreamEvent, Wait, WalStream};
