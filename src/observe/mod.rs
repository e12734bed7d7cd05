//! What the program shows of itself: metrics and health.

pub mod metrics;
pub mod health;
pub mod http;
