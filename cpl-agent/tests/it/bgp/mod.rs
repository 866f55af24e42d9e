//! Announcing to a real GoBGP, whose neighbour is another one.

mod live;
mod rig;
