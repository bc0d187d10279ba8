//! After an upgrade: bytes both ways until both sides have ended, without a look at them. Holds the endpoint's share of
//! the load and the request's record as long as it lives.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::access::Record;
use crate::exchange::Peer;
use crate::reason::Reason;
use crate::upstream::Lease;

/// Opens the tunnel as soon as both sides have changed their protocol.
pub(crate) fn open(peer: &Rc<Peer>, downstream: OnUpgrade, upstream: OnUpgrade, lease: Lease, mut record: Box<Record>) {
    let peer_of_task = Rc::clone(peer);
    peer.core.tasks.spawn_local(async move {
        let activity = &peer_of_task.activity;
        // The upstream first: its bytes may come with its answer, the client's only after it.
        let Ok(upstream) = upstream.await else {
            record.reason = Some(Reason::UpstreamBroken);
            return;
        };
        let Ok(downstream) = downstream.await else { return };
        activity.became_tunnel();
        lease.become_tunnel();
        let before = activity.bytes();
        let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(downstream), &mut TokioIo::new(upstream)).await;
        let after = activity.bytes();
        record.tunnelled_in = after.0 - before.0;
        record.bytes_out = after.1 - before.1;
        // A tunnel knows no right moment to end; a side that goes without goodbye is no failure of the other's.
        record.is_complete = true;
        drop((copied, lease));
    });
}
