//! What signs a JWT.

use std::{error::Error, future::Future, pin::Pin, sync::Arc};

/// What [`Signer::sign`] returns: the signature, or the signer's own error.
pub type SignFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<u8>, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// Signs JWTs with RS256: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3).
///
/// [`PrivateKey`](crate::PrivateKey) is one. Implement it for a key that never leaves its service (a
/// KMS, an HSM): the whole message is given, so ask the service for `RSASSA_PKCS1_V1_5_SHA_256` over a raw
/// message, or hash it first where it wants a digest.
///
/// ```
/// use coze_auth::{SignFuture, Signer};
///
/// struct KeyService;
///
/// impl KeyService {
///     async fn sign_remotely(&self, message: &[u8]) -> Result<Vec<u8>, std::io::Error> {
///         # let _ = message;
///         Ok(vec![1, 2, 3])
///     }
/// }
///
/// impl Signer for KeyService {
///     fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
///         Box::pin(async move { Ok(self.sign_remotely(message).await?) })
///     }
/// }
/// ```
pub trait Signer: Send + Sync + 'static {
    /// Signs the message, which is the JWT's header and claims, encoded and joined by a dot.
    ///
    /// # Errors
    ///
    /// Whatever the signer says; it becomes the source of an error of kind
    /// [`Signing`](crate::ErrorKind::Signing), whose text includes its own. It must hold no secret. A provider signs again
    /// within its deadline if the error is a [transient](crate::Error::transient) one:
    ///
    /// ```
    /// use coze_auth::{Error, SignFuture, Signer};
    ///
    /// struct Busy;
    ///
    /// impl Signer for Busy {
    ///     fn sign<'a>(&'a self, _: &'a [u8]) -> SignFuture<'a> {
    ///         Box::pin(async {
    ///             let busy = std::io::Error::from(std::io::ErrorKind::ResourceBusy);
    ///             Err(Error::of_provider("the key service", busy).transient().into())
    ///         })
    ///     }
    /// }
    /// ```
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a>;
}

/// One signer for several flows.
impl<S: Signer + ?Sized> Signer for Arc<S> {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        S::sign(self, message)
    }
}
