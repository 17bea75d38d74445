//! Work that goes on whether or not anybody waits for it, and a while longer when nobody does any
//! more: what an engine makes of a call, as against what a connection carries away.

use std::io;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};

/// Runs `work` and returns what it comes to. Let go, it goes on for `lag` and is dropped then.
pub async fn finish<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
    lag: Duration,
) -> io::Result<T> {
    let (mut sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            done = work => drop(sender.send(done)),
            () = late(sender.closed(), lag) => {}
        }
    });
    receiver.await.map_err(io::Error::other)
}

/// Takes all items as they come, however slowly they are asked for. Let go, it goes on for `lag`.
pub fn run<T: Send + 'static>(
    items: impl Stream<Item = T> + Send + 'static,
    lag: Duration,
) -> impl Stream<Item = T> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let all = items.for_each(|item| {
            // Nobody listens any more, and still it is made.
            let _ = sender.send(item);
            std::future::ready(())
        });
        tokio::select! {
            () = all => {}
            () = late(sender.closed(), lag) => {}
        }
    });
    stream::unfold(receiver, async |mut receiver| {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}

async fn late(gone: impl Future<Output = ()>, lag: Duration) {
    gone.await;
    tokio::time::sleep(lag).await;
}
