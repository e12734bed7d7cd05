//! Says on classes that what is deleted is kept while their exports have little room left.
//!
//! What a class promises to keep is kept, however little room there is. Only who wrote the class can change that, and
//! `kubectl describe storageclass` is where they look.

use futures::future::join_all;

use crate::cluster::events::Reason;
use crate::controllers::context::Context;
use crate::export::Export;
use crate::model::class::Class;
use crate::model::exports::{ExportId, Exports};

/// Writes events on classes whenever who empties the trash has found little room, for ever.
pub async fn say_forever(context: Context) {
    join_all(context.exports.iter().map(|(id, export)| say_on(id, export, &context))).await;
}

async fn say_on(id: ExportId, export: &Export, context: &Context) {
    loop {
        let kept = export.backlog.pressed().await;
        let message = format!(
            "the export {:?} ({}) has less than a tenth of its space free, and {kept} deleted directories are kept in its \
             trash until their time has come: deleteRetention has them kept, and no deleteRetentionMinFree lets them go \
             earlier. Make the export larger, or end the time of some with `nfs-provisioner trash remove`. If space is to \
             come first, delete the StorageClass and create it again with deleteRetentionMinFree, which counts for what is \
             deleted from then on",
            export.name, export.address,
        );
        for class in context.state.own_classes() {
            if keeps_on(&class, id, &context.scope.exports) {
                context.recorder.record(&class, Reason::TrashKeptWithLittleRoom, &message);
            }
        }
    }
}

/// Tells whether a class has what is deleted on an export kept whatever room that takes.
fn keeps_on(class: &Class, id: ExportId, exports: &Exports) -> bool {
    let keeps = class.parameters.keep.as_ref().is_some_and(|keep| keep.min_free().is_none());
    keeps && exports.meant_by(&class.parameters.export).is_ok_and(|meant| meant.contains(&id))
}
