//! The tests of the manifest as its users see it: texts in, plans and diagnostics out.

mod fixture;
mod golden;
mod lint;
mod manual;
mod robust;
