//! [`Signer`]: the interface between the JWT flow and a private key or key service.

use std::{error::Error, future::Future, pin::Pin, sync::Arc};

/// The future that [`Signer::sign`] returns: the signature, or an error of the signer.
pub type SignFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<u8>, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// Signs JWTs with RS256: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3).
///
/// [`PrivateKey`](crate::PrivateKey) implements it. Implement it for a key that never leaves its service (a KMS, an HSM).
/// `message` is not hashed: request `RSASSA_PKCS1_V1_5_SHA_256` over the raw message, or hash it with SHA-256 first if the
/// service expects a digest.
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
    /// Signs the message: the JWT's header and claims, each in base64url, joined by a dot.
    ///
    /// # Errors
    ///
    /// Any error; it becomes the source of an error of kind [`Signing`](crate::ErrorKind::Signing), and its text is part of
    /// that error's text, so it must not contain a secret. A provider retries within its deadline if the error is
    /// [transient](crate::Error::transient):
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

/// Shares one signer between several flows.
impl<S: Signer + ?Sized> Signer for Arc<S> {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        S::sign(self, message)
    }
}
