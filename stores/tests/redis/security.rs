//! Permissions, passwords and TLS.

use super::*;

/// The documented ACL rule. It must be sufficient, and every part of it necessary.
const ACL: &str = "~coze-auth:* +eval +time +type +dump +get +set +pexpire +del +scan";

async fn use_all(store: &RedisStore, server: &RedisServer) -> Result<(), StoreError> {
    let owner = Owner::new([1; 16], "");
    server.tell(&format!("LPUSH {KEY} of-another-type"));
    let before = store.load(&ann()).await?.unwrap().version;
    let done = change(store, &ann(), Some(&before), Some(contents(1))).await?;
    let CompareAndSet::Done(Some(version)) = done else {
        panic!("a conflict");
    };
    let _ = store.try_lock(&ann(), &owner, TTL).await?;
    assert_eq!(store.list().await?, Some(vec![profile("ann")]));
    let done = change(store, &ann(), Some(&version), Some(contents(2))).await?;
    let CompareAndSet::Done(Some(version)) = done else {
        panic!("a conflict");
    };
    store.unlock(&ann(), &owner).await?;
    let done = change(store, &ann(), Some(&version), None).await?;
    assert_eq!(done, CompareAndSet::Done(None));
    Ok(())
}

#[tokio::test]
async fn the_documented_permissions_are_sufficient_and_all_necessary() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    assert!(
        include_str!("../../../docs/redis.md").contains(ACL),
        "docs/redis.md has another rule"
    );
    let try_with = async |rule: &str| {
        server.tell("FLUSHALL");
        server.tell(&format!("ACL SETUSER replica reset on >hush {rule}"));
        let store = tolerant(server.url_as("replica", "hush")).build().unwrap();
        use_all(&store, &server).await
    };
    try_with(ACL).await.unwrap();
    for word in ACL.split(' ') {
        let rule = ACL
            .replace(&format!("{word} "), "")
            .replace(&format!(" {word}"), "");
        let error = try_with(&rule).await.expect_err(word);
        let why = "lacks a permission (NOPERM)";
        assert_says(&error, StoreErrorKind::NotPermitted, why);
    }
}

#[tokio::test]
async fn a_user_without_write_permission_changes_nothing() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let first = create(&store(&server), 1).await;
    let user = |name: &str, rule: &str| {
        server.tell(&format!(
            "ACL SETUSER {name} on >hush ~coze-auth:* +eval {rule}"
        ));
        tolerant(server.url_as(name, "hush")).build().unwrap()
    };
    let why = "lacks a permission (NOPERM)";
    for store in [
        user("reader", "+@read +time"),
        // Its permissions to delete and expire must not remove a value either.
        user("remover", "+@read +time +del +pexpire"),
    ] {
        assert_eq!(number(&store).await, Some(1));
        let error = change(&store, &ann(), Some(&first), Some(contents(2))).await;
        assert_says(&error.unwrap_err(), StoreErrorKind::NotPermitted, why);
        let owner = Owner::new([1; 16], "");
        let error = store.try_lock(&ann(), &owner, TTL).await.unwrap_err();
        assert_says(&error, StoreErrorKind::NotPermitted, why);
        assert_eq!(number(&store).await, Some(1));
    }
}

#[tokio::test]
async fn a_login_refused_for_another_reason_than_the_password_says_so() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    server.tell("ACL SETUSER replica reset on >right ~* +@all");
    let url = server.url_as("replica", "right");
    // Not a question to a DNS server.
    let here = url.replace("127.0.0.1", "redis.localhost");
    let connected = tolerant(here).build().unwrap();
    assert!(connected.load(&ann()).await.is_ok());
    server.tell("CONFIG SET maxclients 1");
    let other = tolerant(url).build().unwrap();
    let error = other.load(&ann()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Transient, "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_an_error_that_does_not_show_it() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    server.tell("CONFIG SET requirepass right");
    let load = async |url: String| tolerant(url).build().unwrap().load(&ann()).await;
    assert!(load(server.url_as("default", "right")).await.is_ok());
    for (url, why) in [
        (
            server.url_as("default", "hush"),
            "refused the user name or the password",
        ),
        (server.url(), "requires a password (NOAUTH)"),
    ] {
        let error = load(url).await.unwrap_err();
        assert_says(&error, StoreErrorKind::NotPermitted, why);
    }
}

#[tokio::test]
async fn tls_with_a_custom_certificate_authority() {
    let issued = Issued::for_host("localhost");
    let Some(server) = RedisServer::start_with_tls(&issued.certificate, &issued.key) else {
        return;
    };
    let builder = || tolerant(server.tls_url());
    let store = builder().root_certificates(issued.authority).build();
    create(&store.unwrap(), 1).await;
    // The certificate is signed neither by an authority of the system nor by `other`.
    let other = Issued::for_host("localhost").authority;
    for builder in [builder(), builder().root_certificates(other)] {
        let error = builder.build().unwrap().load(&ann()).await.unwrap_err();
        assert_says(&error, StoreErrorKind::Other, "certificate");
    }
}

#[tokio::test]
async fn tls_checks_the_name_of_the_host() {
    let issued = Issued::for_host("redis.example.com");
    let Some(server) = RedisServer::start_with_tls(&issued.certificate, &issued.key) else {
        return;
    };
    let store = tolerant(server.tls_url()).root_certificates(issued.authority);
    let error = store.build().unwrap().load(&ann()).await.unwrap_err();
    assert_says(&error, StoreErrorKind::Other, "certificate");
}

/// A certificate for a host, and the new authority that signed it, as PEM.
struct Issued {
    authority: String,
    certificate: String,
    key: String,
}

impl Issued {
    fn for_host(host: &str) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        Self {
            authority: authority.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}
