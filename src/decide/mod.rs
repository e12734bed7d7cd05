//! All decisions: what to do for a pending claim, a volume or a claim that asks for more, as values. No I/O, no
//! clock.

pub mod scope;
pub mod volume;
pub mod record;
pub mod copy;
pub mod choice;
pub mod restore;
pub mod refusal;
pub mod claim;
pub mod expansion;

#[cfg(test)]
mod tests;
