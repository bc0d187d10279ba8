//! Proofs other than passwords, with the official client.

use broker::{Config, Credential, Permissions, User};

use crate::support::{config, start};

fn with(credential: Credential) -> Config {
    let users = vec![User { name: "tool".to_owned(), credential, permissions: Permissions::default() }];
    Config { users, ..config() }
}

#[tokio::test]
async fn an_nkey_signs_the_nonce_of_its_connection() {
    let pair = nkeys::KeyPair::new_user();
    let running = start(&with(Credential::Nkey(pair.public_key())));
    let client = async_nats::ConnectOptions::with_nkey(pair.seed().unwrap()).connect(running.url()).await.unwrap();
    client.flush().await.unwrap();
    assert!(!client.server_info().nonce.is_empty());
    let stranger = nkeys::KeyPair::new_user().seed().unwrap();
    assert!(async_nats::ConnectOptions::with_nkey(stranger).connect(running.url()).await.is_err());
}

#[tokio::test]
async fn a_token_stands_alone() {
    let running = start(&with(Credential::Token("open".to_owned())));
    let with_token = |token: &str| async_nats::ConnectOptions::with_token(token.to_owned());
    assert!(with_token("open").connect(running.url()).await.is_ok());
    assert!(with_token("shut").connect(running.url()).await.is_err());
    assert!(async_nats::connect(running.url()).await.is_err());
}
