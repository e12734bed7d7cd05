//! What the program shows of itself: its log, metrics and health.

pub mod log;
pub mod metrics;
pub mod health;
pub mod http;
