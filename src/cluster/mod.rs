//! The API server: calls, events, permissions, the leader lock, and the watches.

pub mod slim;
pub mod api;
mod proxy;
pub mod connect;
pub mod permissions;
pub mod lock;
pub mod election;
pub mod grants;
pub mod events;
mod mirror;
mod volumes;
pub mod state;
pub mod watch_health;
mod setback;
pub mod watches;
#[cfg(test)]
mod tests;
