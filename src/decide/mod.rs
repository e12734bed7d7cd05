//! All judgement: what is to be done for a claim, a volume or a claim that grows, as values. No I/O, no clock.

mod scope;
mod volume;
mod copy;
mod claim;
mod expansion;

pub use claim::{BadAnnotation, ClaimIgnored, ClaimPlan, ClaimRefusal, Passing, for_claim};
pub use copy::{BadSource, CopyOf, Origin};
pub use expansion::{ExpansionIgnored, ExpansionPlan, ExpansionRefusal, Means, for_expansion};
pub use scope::Scope;
pub use volume::{Doubt, VolumeIgnored, VolumePlan, VolumeRefusal, for_volume, is_work, located};

#[cfg(test)]
mod tests;
