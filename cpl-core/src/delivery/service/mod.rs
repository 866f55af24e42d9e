//! Answering agents, appending what they say, folding it into status.

mod appender;
mod deliveries;
mod folder;

pub use self::appender::Appender;
pub use self::deliveries::{Deliveries, DeliveryConfig};
pub use self::folder::Folder;
