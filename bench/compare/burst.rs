//! Many sign-ins at the same moment.

use std::{net::SocketAddr, time::Instant};

use futures_util::future::join_all;

use crate::{client::Client, figures::Figures};

/// So many sign-ins at once, each on a connection that is open before.
pub async fn burst(server: SocketAddr, count: usize) -> Figures {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(Client::connect(server).await);
    }
    let began = Instant::now();
    let statuses = join_all(clients.iter_mut().map(async |client| {
        let status = client.get("/sign_in?peer_name=peer").await.status;
        client.shrink();
        status
    }));
    let refused = statuses.await.into_iter().filter(|status| *status != 200);
    let refused = refused.count();
    vec![
        ("all answered", "s", began.elapsed().as_secs_f64()),
        ("refused", "", refused as f64),
    ]
}
