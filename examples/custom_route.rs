//! The signaling routes next to a route of your own; prints each peer that joins or leaves.
//! Run it with `cargo run --example custom_route`, then `curl localhost:3000/new-endpoint`.

use signal_http_heartbeat::{HeartbeatOpts, PeerEvent, ServeOpts, router, serve};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (signaling, peer_list) = router(HeartbeatOpts::default());
    let app = axum::Router::new()
        .route("/new-endpoint", axum::routing::get(async || "hello"))
        .merge(signaling);

    let mut events = peer_list.subscribe(None).await;
    tokio::spawn(async move {
        loop {
            match events.next().await {
                Ok((_, PeerEvent::PeerAdded(peer))) => {
                    println!("{} signed in as {}", peer.name, peer.id);
                }
                Ok((_, PeerEvent::PeerRemoved { peer, reason })) => {
                    println!("{} left: {reason}", peer.name);
                }
                _ => {}
            }
        }
    });

    let port = std::env::var("PORT").unwrap_or("3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    serve(listener, app, peer_list, ServeOpts::default(), stop).await;
    Ok(())
}
