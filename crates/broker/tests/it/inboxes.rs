//! Inboxes of one user are not another's, with the official client's default names.

use broker::{Config, Permissions};
use futures_util::StreamExt;

use crate::support::{BOUND, Raw, Running, config, start, user};

fn three_users() -> Running {
    let users = ["asking", "answering", "curious"].map(|name| user(name, Permissions::default()));
    start(&Config { users: users.to_vec(), ..config() })
}

async fn client(running: &Running, name: &str) -> async_nats::Client {
    let options = async_nats::ConnectOptions::with_user_and_password(name.to_owned(), name.to_owned());
    options.connect(running.url()).await.unwrap()
}

#[tokio::test]
async fn answers_reach_who_asked_and_nobody_else() {
    let running = three_users();
    let mut curious = Raw::connected_as(running.address, "curious").await;
    curious.say("SUB _INBOX.> 1\r\nSUB > 2\r\nSUB *.> 3\r\nSUB _INBOX.*.* 4\r\nSUB _INBOX.@asking.> 5\r\n").await;
    let (asking, answering) = (client(&running, "asking").await, client(&running, "answering").await);
    let mut requests = answering.subscribe("price").await.unwrap();
    answering.flush().await.unwrap();
    let request = asking.request("price", "?".into());
    let answer = async {
        let request = requests.next().await.unwrap();
        answering.publish(request.reply.unwrap(), "secret".into()).await.unwrap();
    };
    let (got, ()) = tokio::time::timeout(BOUND, async { tokio::join!(request, answer) }).await.unwrap();
    assert_eq!(got.unwrap().payload, "secret");
    let seen = curious.say("").await;
    assert!(seen.contains("price") && !seen.contains("secret"), "{seen}");
}

#[tokio::test]
async fn a_reply_that_others_have_seen_is_of_no_use_to_them() {
    let running = three_users();
    let mut asking = Raw::connected_as(running.address, "asking").await;
    let mut answering = Raw::connected_as(running.address, "answering").await;
    let mut curious = Raw::connected_as(running.address, "curious").await;
    answering.say("SUB price 1\r\n").await;
    curious.say("SUB price 1\r\n").await;
    asking.say("SUB _INBOX.secret.* 9\r\nPUB price _INBOX.secret.1 0\r\n\r\n").await;
    let seen = "MSG price 1 _INBOX.@asking.secret.1 0\r\n\r\n";
    assert_eq!(curious.say("SUB _INBOX.@asking.secret.1 2\r\nSUB _INBOX.secret.1 3\r\n").await, seen);
    assert_eq!(answering.say("PUB _INBOX.@asking.secret.1 2\r\nok\r\n").await, seen);
    assert_eq!(asking.say("").await, "MSG _INBOX.secret.1 9 2\r\nok\r\n");
    assert_eq!(curious.say("").await, "");
}

#[tokio::test]
async fn a_request_that_is_passed_on_is_answered_to_who_asked() {
    let running = three_users();
    let mut asking = Raw::connected_as(running.address, "asking").await;
    let mut answering = Raw::connected_as(running.address, "answering").await;
    let mut curious = Raw::connected_as(running.address, "curious").await;
    answering.say("SUB front 1\r\n").await;
    curious.say("SUB back 1\r\n").await;
    asking.say("SUB _INBOX.a 9\r\nPUB front _INBOX.a 0\r\n\r\n").await;
    assert_eq!(answering.say("PUB back _INBOX.@asking.a 0\r\n\r\n").await, "MSG front 1 _INBOX.@asking.a 0\r\n\r\n");
    assert_eq!(curious.say("PUB _INBOX.@asking.a 1\r\nx\r\n").await, "MSG back 1 _INBOX.@asking.a 0\r\n\r\n");
    assert_eq!(asking.say("").await, "MSG _INBOX.a 9 1\r\nx\r\n");
}

#[tokio::test]
async fn an_inbox_that_is_told_in_a_payload_is_reached_by_its_name() {
    let running = three_users();
    let mut asking = Raw::connected_as(running.address, "asking").await;
    let mut answering = Raw::connected_as(running.address, "answering").await;
    let mut curious = Raw::connected_as(running.address, "curious").await;
    asking.say("SUB _INBOX.told.> 9\r\n").await;
    curious.say("SUB _INBOX.> 1\r\nSUB _INBOX.*.x 2\r\nSUB > 3\r\n").await;
    answering.say("PUB _INBOX.told.x 2\r\nok\r\n").await;
    assert_eq!(asking.say("").await, "MSG _INBOX.told.x 9 2\r\nok\r\n");
    assert_eq!(curious.say("").await, "");
}

#[tokio::test]
async fn without_users_inboxes_are_like_every_subject() {
    let running = start(&config());
    let (mut one, mut two) = (Raw::connected(running.address).await, Raw::connected(running.address).await);
    one.say("SUB > 1\r\n").await;
    two.say("PUB a _INBOX.x 0\r\n\r\nPUB _INBOX.x 0\r\n\r\n").await;
    assert_eq!(one.say("").await, "MSG a 1 _INBOX.x 0\r\n\r\nMSG _INBOX.x 1 0\r\n\r\n");
}
