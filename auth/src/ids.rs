//! The ids of an app and of its keys, as separate types, so that one can't be passed in place of another, or of a
//! secret.

use std::fmt;

use crate::{Result, input::identifier};

macro_rules! ids {
    ($($(#[$doc:meta])* $id:ident: $name:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// Any text converts into it with `From`. The flow that is built with it checks it, and removes what env files
        /// add: white space, a pair of quotation marks, `
        /// `.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $id(String);

        impl $id {
            /// The cleaned id, if it is valid.
            pub(crate) fn checked(&self) -> Result<Self> {
                identifier($name, &self.0).map(Self)
            }
        }

        impl From<String> for $id {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl From<&str> for $id {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }

        impl AsRef<str> for $id {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&coze_wire::sanitize_sentence(self.0.clone()))
            }
        }
    )*};
}

ids! {
    /// The client id of an OAuth app.
    ///
    /// ```
    /// use coze_auth::ClientId;
    ///
    /// let client_id = ClientId::from("8173420653665306615182245269.app.coze");
    /// assert_eq!(client_id.to_string(), "8173420653665306615182245269.app.coze");
    /// ```
    ///
    /// It can't be swapped with the client secret:
    ///
    /// ```compile_fail,E0308
    /// use coze_auth::{ClientId, OAuthClient, Secret, WebFlow};
    ///
    /// fn flow(client: OAuthClient, client_id: ClientId, client_secret: Secret) {
    ///     let _ = WebFlow::new(client, client_secret, client_id);
    /// }
    /// ```
    ClientId: "client id";
    /// The id of a key of a JWT app: the fingerprint of its public key, as the console shows it.
    ///
    /// A client id is not accepted in its place:
    ///
    /// ```compile_fail,E0308
    /// use coze_auth::{ClientId, JwtFlow, KeyId, OAuthClient, PrivateKey};
    ///
    /// fn flow(client: OAuthClient, client_id: ClientId, key_id: KeyId, key: PrivateKey) {
    ///     let _ = JwtFlow::new(client, key_id, client_id, key);
    /// }
    /// ```
    KeyId: "key id (public key fingerprint)";
}
