//! Who does something, as events say it: known again, and not known.

use sha2::{Digest, Sha256};

/// The session of a cart. A cart's id is a secret, since who knows it owns the cart: no event may hold it. It has 122 random
/// bits, so that nobody finds it from this.
#[must_use]
pub fn of_cart(id: &str) -> String {
    let digest = Sha256::new().chain_update("session of a cart\0").chain_update(id).finalize();
    digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_the_same_for_a_cart_and_nobody_elses() {
        let session = of_cart("7c9e6679-7425-40de-944b-e07fc1f90ae7");
        assert_eq!(session, of_cart("7c9e6679-7425-40de-944b-e07fc1f90ae7"));
        assert_ne!(session, of_cart("7c9e6679-7425-40de-944b-e07fc1f90ae8"));
        assert_eq!(session.len(), 24);
    }
}
