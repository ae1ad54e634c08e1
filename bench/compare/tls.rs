//! TLS: what a handshake takes, a waiting peer and a message.

use std::{path::PathBuf, process::Command, time::Duration};

use tokio::time::sleep;

use crate::{
    client::{At, Client},
    figures::{Figures, micros},
    park, relay,
    server::{Kind, Running},
};

/// How many handshakes are measured.
const HANDSHAKES: u32 = 2_000;

/// A server that also speaks TLS, with a certificate for such a key.
fn start(key: &[&str]) -> Running {
    let files = certificate(key);
    let [cert, key] = files.each_ref().map(|file| file.to_str().expect("UTF-8"));
    let settings = [
        ("WEBRTC_TLS_CERT", cert),
        ("WEBRTC_TLS_KEY", key),
        ("WEBRTC_TLS_PORT", "0"),
    ];
    Running::start_with(Kind::Ours, "", &settings)
}

const ECDSA: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: &[&str] = &["rsa:2048"];

/// The files with a certificate and its key.
fn certificate(key: &[&str]) -> [PathBuf; 2] {
    let folder = std::env::temp_dir();
    let file = |end| folder.join(format!("signal-bench-{}.{end}", std::process::id()));
    let files = [file("crt"), file("key")];
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-newkey",
        ])
        .args(key)
        .arg("-out")
        .arg(&files[0])
        .arg("-keyout")
        .arg(&files[1]);
    let made = openssl.output().expect("openssl");
    assert!(made.status.success());
    files
}

/// Clients that connect, shake hands in full, and leave. `tls`: or only connect.
pub async fn handshakes(rsa: bool, tls: bool) -> Figures {
    let server = start(if rsa { RSA } else { ECDSA });
    let at = if tls {
        server.tls()
    } else {
        server.address.into()
    };
    // The first ones allocate what the others use again.
    for _ in 0..50 {
        Client::connect(at).await;
    }
    let before = server.cpu();
    for _ in 0..HANDSHAKES {
        Client::connect(at).await;
    }
    sleep(Duration::from_millis(200)).await;
    let cpu = server.cpu() - before;
    vec![(
        "CPU per connection",
        "us",
        micros(cpu) / f64::from(HANDSHAKES),
    )]
}

/// As [`park::park`], through TLS.
pub async fn park(peers: usize, tls: bool) -> Figures {
    let server = start(ECDSA);
    let at = if tls {
        server.tls()
    } else {
        server.address.into()
    };
    park::park_at(&server, at, peers).await
}

/// As [`relay::relay`], through TLS.
pub async fn relay(pairs: u32, messages: u32) -> Figures {
    let server = start(ECDSA);
    relay::relay_between(&[server.tls()], pairs, messages, false, || server.cpu()).await
}

impl Running {
    /// Where it speaks TLS.
    fn tls(&self) -> At {
        At {
            address: self.tls.expect("its address for TLS"),
            tls: true,
        }
    }
}
