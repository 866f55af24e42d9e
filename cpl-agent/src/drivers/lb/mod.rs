//! The drivers of the load-balancer fleet.
//!
//! [`HaproxyDriver`] carries traffic, [`AnnouncingDriver`] announces its addresses. [`RenderDriver`] only writes the file that it would give to
//! HAProxy: no data plane, no traffic.
//!
//! What is decided is decided purely: `render` and `state` write HAProxy's two files, `observe` and
//! `alerts` read its answers, `plan` chooses between commands and a reload, `health` and `leaving`
//! judge endpoints, `announce` whether prefixes are announced. `socket`, `gobgp`, `preflight`, `process` and `files` touch the world, and `apply`,
//! `housekeep` and `announcer` put the two together.

mod alerts;
mod announce;
mod announcer;
mod apply;
mod files;
mod gobgp;
mod haproxy;
mod health;
mod housekeep;
mod leaving;
mod mark;
mod names;
mod observe;
mod plan;
mod preflight;
mod process;
mod read;
mod render;
mod render_only;
mod running;
mod socket;
mod state;
#[cfg(test)]
mod tests;

pub use announcer::{AnnouncerConfig, AnnouncingDriver};
pub use haproxy::{HaproxyConfig, HaproxyDriver};
pub use render_only::{RenderConfig, RenderDriver};
