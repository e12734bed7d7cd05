//! Small types for text from outside, each checked when it is parsed. No I/O and no Kubernetes objects.

pub mod text;
pub mod time;
pub mod names;
pub mod quantity;
pub mod path;
pub mod address;
pub mod pattern;
pub mod ownership;
pub mod headroom;
pub mod retention;
