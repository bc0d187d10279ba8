//! Who a client is: users with what they prove themselves with and what they may do, compiled from the configuration.
//! Asked at CONNECT. A user that goes on proving itself with the same stays the same when its permissions change.

mod nkey;
mod permissions;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::config::{self, Credential};
use crate::error::Error;
use crate::protocol::Connect;
use crate::subject;
use permissions::Compiled;
pub(crate) use permissions::Permissions;

/// Limit: bytes of randomness in a nonce; as many as nats-server takes.
const NONCE_LEN: usize = 11;

/// Somebody who may connect.
#[derive(Debug)]
pub(crate) struct User {
    /// Empty for everybody where no users are declared.
    pub(crate) name: String,
    credential: Option<Credential>,
    /// What `permissions` were compiled from.
    declared: Mutex<config::Permissions>,
    pub(crate) permissions: Permissions,
}

/// Permissions that users who stay are to have instead of theirs.
#[derive(Debug, Default)]
pub(crate) struct Regranted(Vec<(Arc<User>, config::Permissions, Compiled)>);

/// Everybody who may connect.
#[derive(Debug)]
pub(crate) struct Users {
    by_name: HashMap<String, Arc<User>>,
    /// By the 32 bytes of the public key.
    by_key: HashMap<[u8; nkey::LEN], Arc<User>>,
    tokens: Vec<Arc<User>>,
    /// The process itself: may do everything.
    internal: Arc<User>,
    /// Everybody, where no users are declared.
    anybody: Option<Arc<User>>,
}

impl Users {
    /// Compiles users.
    ///
    /// # Errors
    /// [`Error::User`] for the first that cannot be.
    pub(crate) fn compile(users: &[config::User]) -> Result<Self, Error> {
        Self::compile_after(users, None).map(|(users, _)| users)
    }

    /// Compiles users that follow others. Who has its name and proves itself as before stays the very same, so that what it
    /// holds stays its own; what it may do from now on is for the caller to [grant](Regranted::grant).
    ///
    /// # Errors
    /// [`Error::User`] for the first that cannot be.
    pub(crate) fn followed_by(&self, users: &[config::User]) -> Result<(Self, Regranted), Error> {
        Self::compile_after(users, Some(self))
    }

    fn compile_after(users: &[config::User], before: Option<&Self>) -> Result<(Self, Regranted), Error> {
        let mut regranted = Regranted::default();
        let internal = before.map_or_else(|| Arc::new(User::free()), |before| Arc::clone(&before.internal));
        let present = before.and_then(|before| before.anybody.clone());
        let anybody = users.is_empty().then(|| present.unwrap_or_else(|| Arc::new(User::free())));
        let mut compiled =
            Self { by_name: HashMap::new(), by_key: HashMap::new(), tokens: Vec::new(), internal, anybody };
        for declared in users {
            let wrong = |what| Error::User { user: declared.name.clone(), what };
            if !subject::is_publishable(declared.name.as_bytes()) || declared.name.contains('.') {
                return Err(wrong("has a name that is no token of a subject"));
            }
            let permissions =
                Compiled::compile(&declared.permissions).ok_or_else(|| wrong("has a permission that is no subject"))?;
            let kept = before.and_then(|before| before.by_name.get(&declared.name));
            let user = match kept.filter(|kept| kept.credential.as_ref() == Some(&declared.credential)) {
                Some(kept) => {
                    if *kept.declared() != declared.permissions {
                        regranted.0.push((Arc::clone(kept), declared.permissions.clone(), permissions));
                    }
                    Arc::clone(kept)
                }
                None => Arc::new(User::new(declared, permissions)),
            };
            match &declared.credential {
                Credential::Password(_) => {}
                Credential::Token(_) => compiled.tokens.push(Arc::clone(&user)),
                Credential::Nkey(key) => {
                    let key =
                        nkey::decode_user(key).ok_or_else(|| wrong("has an nkey that is no user's public key"))?;
                    if compiled.by_key.insert(key, Arc::clone(&user)).is_some() {
                        return Err(wrong("has the nkey of another user"));
                    }
                }
            }
            if compiled.by_name.insert(declared.name.clone(), user).is_some() {
                return Err(wrong("is declared twice"));
            }
        }
        Ok((compiled, regranted))
    }

    /// Whether clients must prove who they are.
    pub(crate) fn is_closed(&self) -> bool {
        self.anybody.is_none()
    }

    pub(crate) fn has_keys(&self) -> bool {
        !self.by_key.is_empty()
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(std::str::from_utf8(name).ok()?)
    }

    /// Who everybody is while nobody has to say so.
    pub(crate) fn anybody(&self) -> Option<&Arc<User>> {
        self.anybody.as_ref()
    }

    pub(crate) fn internal(&self) -> &Arc<User> {
        &self.internal
    }

    /// Whether this very user is one of these.
    pub(crate) fn has(&self, user: &Arc<User>) -> bool {
        let same = |known: &Arc<User>| Arc::ptr_eq(known, user);
        self.anybody.as_ref().is_some_and(same) || self.by_name.get(&user.name).is_some_and(same)
    }

    /// Who this is, if it proves it. `nonce` is what INFO has asked to be signed.
    pub(crate) fn authenticate(&self, connect: &Connect, nonce: Option<&str>) -> Option<&Arc<User>> {
        if let Some(anybody) = &self.anybody {
            return Some(anybody);
        }
        if !connect.nkey.is_empty() {
            let key = nkey::decode_user(&connect.nkey)?;
            let user = self.by_key.get(&key)?;
            return nkey::is_signed(&key, nonce?, &connect.signature).then_some(user);
        }
        if !connect.token.is_empty() {
            return self.tokens.iter().find(|user| user.has_secret(&connect.token));
        }
        let user = self.by_name.get(&connect.user)?;
        let is_by_password = matches!(user.credential, Some(Credential::Password(_)));
        (is_by_password && user.has_secret(&connect.password)).then_some(user)
    }
}

impl Regranted {
    /// Lets them have it. Whoever keeps answers has to be told.
    pub(crate) fn grant(self) -> Vec<Arc<User>> {
        let grant = |(user, declared, permissions): (Arc<User>, config::Permissions, Compiled)| {
            *user.declared() = declared;
            user.permissions.replace(permissions);
            user
        };
        self.0.into_iter().map(grant).collect()
    }
}

impl User {
    /// With every right and no name.
    pub(crate) fn free() -> Self {
        let declared = Mutex::default();
        Self { name: String::new(), credential: None, permissions: Permissions::default(), declared }
    }

    fn new(declared: &config::User, permissions: Compiled) -> Self {
        let (name, credential) = (declared.name.clone(), Some(declared.credential.clone()));
        let permissions = Permissions::new(permissions);
        Self { name, credential, permissions, declared: Mutex::new(declared.permissions.clone()) }
    }

    fn declared(&self) -> MutexGuard<'_, config::Permissions> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares in constant time.
    fn has_secret(&self, given: &str) -> bool {
        match &self.credential {
            Some(Credential::Password(secret) | Credential::Token(secret)) => {
                verify_slices_are_equal(secret.as_bytes(), given.as_bytes()).is_ok()
            }
            _ => false,
        }
    }
}

/// Something to be signed that was never asked before.
///
/// # Errors
/// [`Error::Randomness`].
pub(crate) fn nonce() -> Result<String, Error> {
    let mut bytes = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Randomness)?;
    Ok(nkey::encode_base64(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, credential: Credential) -> config::User {
        config::User { name: name.to_owned(), credential, permissions: config::Permissions::default() }
    }

    fn who(users: &Users, connect: &Connect) -> Option<String> {
        users.authenticate(connect, Some("nonce")).map(|user| user.name.clone())
    }

    #[test]
    fn a_user_is_known_by_its_own_secret_alone() {
        let declared = [
            user("orders", Credential::Password("p1".to_owned())),
            user("cart", Credential::Password("p2".to_owned())),
            user("tool", Credential::Token("t".to_owned())),
        ];
        let users = Users::compile(&declared).unwrap();
        let by_password = |user: &str, password: &str| {
            let connect = Connect { user: user.to_owned(), password: password.to_owned(), ..Connect::default() };
            who(&users, &connect)
        };
        assert_eq!(by_password("orders", "p1").as_deref(), Some("orders"));
        for (user, password) in [("orders", "p2"), ("orders", ""), ("", "p1"), ("tool", "t"), ("tool", "")] {
            assert_eq!(by_password(user, password), None, "{user}");
        }
        let by_token = |token: &str| who(&users, &Connect { token: token.to_owned(), ..Connect::default() });
        assert_eq!((by_token("t").as_deref(), by_token("p1")), (Some("tool"), None));
        assert_eq!(who(&users, &Connect::default()), None);
    }

    #[test]
    fn a_key_signs_the_nonce() {
        let pair = nkeys::KeyPair::new_user();
        let users = Users::compile(&[user("orders", Credential::Nkey(pair.public_key()))]).unwrap();
        let signed = |nonce: &str| Connect {
            nkey: pair.public_key(),
            signature: nkey::encode_base64(&pair.sign(nonce.as_bytes()).unwrap()),
            ..Connect::default()
        };
        assert_eq!(who(&users, &signed("nonce")).as_deref(), Some("orders"));
        assert_eq!(who(&users, &signed("another")), None);
        assert_eq!(who(&users, &Connect { signature: "?".to_owned(), ..signed("nonce") }), None);
        let stranger = nkeys::KeyPair::new_user().public_key();
        assert_eq!(who(&users, &Connect { nkey: stranger, ..signed("nonce") }), None);
        assert_eq!(who(&users, &Connect { user: "orders".to_owned(), ..Connect::default() }), None);
    }

    #[test]
    fn users_who_prove_themselves_as_before_stay_the_same() {
        let (one, two) =
            (user("a", Credential::Password("1".to_owned())), user("b", Credential::Password("2".to_owned())));
        let before = Users::compile(&[one.clone(), two.clone()]).unwrap();
        let nothing = config::Rules { allow: Some(Vec::new()), deny: Vec::new() };
        let permissions = config::Permissions { publish: nothing, ..config::Permissions::default() };
        let (one, two) = (
            config::User { permissions, ..one },
            config::User { credential: Credential::Password("3".to_owned()), ..two },
        );
        let (after, regranted) = before.followed_by(&[one.clone(), two]).unwrap();
        let a = before.find(b"a").unwrap();
        assert!(after.has(a) && !after.has(before.find(b"b").unwrap()));
        assert!(a.permissions.may_publish(b"x"), "as long as nobody grants it");
        assert_eq!(regranted.grant().len(), 1);
        assert!(!a.permissions.may_publish(b"x"));
        assert!(after.followed_by(&[one]).unwrap().1.grant().is_empty());
    }

    #[test]
    fn users_that_cannot_be_are_refused() {
        let password = || Credential::Password("x".to_owned());
        for name in ["", "a.b", "*", ">", "a b"] {
            assert!(Users::compile(&[user(name, password())]).is_err(), "{name}");
        }
        assert!(Users::compile(&[user("a", password()), user("a", password())]).is_err());
        assert!(Users::compile(&[user("a", Credential::Nkey("UABC".to_owned()))]).is_err());
    }
}
