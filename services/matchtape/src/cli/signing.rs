//! A signature over published roots: who vouches for them, for someone who got them by a way that anybody could have changed.
//!
//! It is detached: 64 bytes in a file of their own, Ed25519 (RFC 8032) over the bytes of the published file as they are. Keys are PEM,
//! PKCS#8 and SPKI. So nobody needs this program to check it, nor to make it:
//!
//! ```text
//! openssl genpkey -algorithm ed25519 -out KEY && openssl pkey -in KEY -pubout -out PUB
//! openssl pkeyutl -sign   -rawin -inkey KEY       -in roots.jsonl -out     roots.jsonl.sig
//! openssl pkeyutl -verify -rawin -inkey PUB -pubin -in roots.jsonl -sigfile roots.jsonl.sig
//! ```
//!
//! What is published is signed, and not the footer of each segment. Footers are equal on all replicas, so one key would have to
//! lie on each of them, at hand at every seal, in the process that takes events from everybody; and when it is replaced, old segments
//! would stay signed by the one that nobody trusts any more. The root is over all that a footer speaks of. Where and how often somebody
//! vouches for roots is theirs to choose, on a machine that nobody publishes to; and roots can be signed anew.
//!
//! Never keeps a key longer than it signs with it, and never writes one.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::error::CliError;

/// No key is longer.
const KEY_BYTES_MAX: u64 = 4096;
/// What group and others may do with a file.
const OTHERS: u32 = 0o077;

/// Where the signature of a file is, unless it is said.
pub(super) fn signature_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

fn failed(path: &Path, error: impl std::fmt::Display, advice: &str) -> CliError {
    CliError::with_advice(format_args!("{}: {error}", path.display()), advice)
}

fn read_text(file: File, path: &Path, advice: &str) -> Result<String, CliError> {
    let mut text = String::new();
    let read = file.take(KEY_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| failed(path, error, advice))?;
    if text.len() as u64 > KEY_BYTES_MAX {
        return Err(failed(path, format_args!("more than {KEY_BYTES_MAX} bytes are no key"), advice));
    }
    Ok(text)
}

/// Signs with the private key in a file that nobody else may read.
pub(super) struct SignKey(SigningKey);

impl SignKey {
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        const ADVICE: &str =
            "--sign names an Ed25519 key, not encrypted, as `openssl genpkey -algorithm ed25519` makes it";
        let file = File::open(path).map_err(|error| failed(path, error, ADVICE))?;
        // Of the file that was opened, whatever has the name by now.
        let mode = file.metadata().map_err(|error| failed(path, error, ADVICE))?.mode();
        if mode & OTHERS != 0 {
            return Err(CliError::with_advice(
                format_args!(
                    "{}: others may use this private key (mode {:04o})",
                    path.display(),
                    mode & 0o7777
                ),
                format_args!(
                    "`chmod 600 {}`; if others could have read it, make another one",
                    path.display()
                ),
            ));
        }
        let text = read_text(file, path, ADVICE)?;
        let key = SigningKey::from_pkcs8_pem(&text);
        key.map(Self).map_err(|error| failed(path, format_args!("no private key: {error}"), ADVICE))
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; Signature::BYTE_SIZE] {
        self.0.sign(bytes).to_bytes()
    }
}

/// Checks that `bytes`, which are those of `file`, were signed with the key whose public half is in `public`.
pub(super) fn check(file: &Path, bytes: &[u8], signature: &Path, public: &Path) -> Result<(), CliError> {
    const KEY: &str = "--signed-by names a public Ed25519 key, as `openssl pkey -pubout` writes it";
    const SIGNATURE: &str = "`matchtape proof roots --sign` writes the signature beside the roots, with .sig at the end of the name; --signature names another";
    let text = read_text(File::open(public).map_err(|error| failed(public, error, KEY))?, public, KEY)?;
    let key = VerifyingKey::from_public_key_pem(&text);
    let key = key.map_err(|error| failed(public, format_args!("no public key: {error}"), KEY))?;
    let mut raw = Vec::new();
    let read = File::open(signature)
        .and_then(|opened| opened.take(Signature::BYTE_SIZE as u64 + 1).read_to_end(&mut raw));
    read.map_err(|error| failed(signature, error, SIGNATURE))?;
    let signed =
        Signature::from_slice(&raw).map_err(|_| failed(signature, "a signature has 64 bytes", SIGNATURE))?;
    // Strict: no key, and no signature, that would stand for more than one thing.
    key.verify_strict(bytes, &signed).map_err(|_| {
        CliError::with_advice(
            format_args!("{}: not signed, as it is, by the key of {}", file.display(), public.display()),
            "nothing in it can be trusted: it was changed since, or somebody else has signed it; get it, and the key, from whoever \
             publishes them",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // RFC 8032, 7.1, test 2, with its keys as `openssl pkey` writes them.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n-----END PUBLIC KEY-----\n";
    const MESSAGE: &[u8] = &[0x72];
    const SIGNATURE: [u8; 64] = [
        0x92, 0xa0, 0x09, 0xa9, 0xf0, 0xd4, 0xca, 0xb8, 0x72, 0x0e, 0x82, 0x0b, 0x5f, 0x64, 0x25, 0x40, 0xa2,
        0xb2, 0x7b, 0x54, 0x16, 0x50, 0x3f, 0x8f, 0xb3, 0x76, 0x22, 0x23, 0xeb, 0xdb, 0x69, 0xda, 0x08, 0x5a,
        0xc1, 0xe4, 0x3e, 0x15, 0x99, 0x6e, 0x45, 0x8f, 0x36, 0x13, 0xd0, 0xf1, 0x1d, 0x8c, 0x38, 0x7b, 0x2e,
        0xae, 0xb4, 0x30, 0x2a, 0xee, 0xb0, 0x0d, 0x29, 0x16, 0x12, 0xbb, 0x0c, 0x00,
    ];

    /// A folder with a file in it that only its owner may use.
    fn with(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        (folder, path)
    }

    fn said(error: CliError) -> String {
        match error {
            CliError::Failed { message, advice } => format!("{message}; {}", advice.unwrap_or_default()),
            other => panic!("{other:?}"),
        }
    }

    fn judged(bytes: &[u8], signature: &[u8], public: &str) -> Result<(), String> {
        let (_signatures, signature) = with("roots.jsonl.sig", signature);
        let (_keys, public) = with("public.pem", public.as_bytes());
        check(Path::new("roots.jsonl"), bytes, &signature, &public).map_err(said)
    }

    #[test]
    fn the_key_and_message_of_the_standard_give_its_signature() {
        let (_folder, path) = with("key.pem", PRIVATE.as_bytes());
        let key = SignKey::read(&path).unwrap_or_else(|error| panic!("{}", said(error)));
        assert_eq!(key.sign(MESSAGE), SIGNATURE);
        assert_eq!(judged(MESSAGE, &SIGNATURE, PUBLIC), Ok(()));
    }

    #[test]
    fn any_other_byte_of_message_or_signature_or_another_key_is_refused() {
        for at in 0..SIGNATURE.len() {
            let mut other = SIGNATURE;
            other[at] ^= 1;
            assert!(
                judged(MESSAGE, &other, PUBLIC).unwrap_err().contains("roots.jsonl: not signed"),
                "byte {at}"
            );
        }
        assert!(judged(&[0x73], &SIGNATURE, PUBLIC).unwrap_err().contains("not signed"));
        assert!(judged(&[0x72, 0x0a], &SIGNATURE, PUBLIC).unwrap_err().contains("not signed"));
        let other = PUBLIC.replace("PUAX", "PUAW");
        judged(MESSAGE, &SIGNATURE, &other).unwrap_err();
        for signature in [&SIGNATURE[..63], &[&SIGNATURE[..], b"\n"].concat(), b""] {
            assert!(judged(MESSAGE, signature, PUBLIC).unwrap_err().contains("64 bytes"));
        }
        // The key that has everything signed by nobody: the point of order one.
        let nobody = "-----BEGIN PUBLIC KEY-----\n\
            MCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n";
        let mut of_nobody = [0; 64];
        of_nobody[0] = 1;
        assert!(judged(MESSAGE, &of_nobody, nobody).unwrap_err().contains("not signed"));
    }

    #[test]
    fn a_key_that_others_may_read_is_not_used_and_what_is_no_key_is_refused_with_how_to_make_one() {
        let refused = |path: &Path| said(SignKey::read(path).err().expect("refused"));
        let (_folder, path) = with("key.pem", PRIVATE.as_bytes());
        for mode in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let said = refused(&path);
            assert!(said.contains(&format!("mode {mode:04o}")) && said.contains("chmod 600"), "{said}");
        }
        let long = "A".repeat(5000);
        for content in [PUBLIC, "", "key", &long, &PRIVATE.replace(" PRIVATE", " ENCRYPTED PRIVATE")] {
            let (_folder, path) = with("key.pem", content.as_bytes());
            let said = refused(&path);
            assert!(said.contains("key.pem: ") && said.contains("openssl genpkey"), "{said}");
        }
        assert!(refused(Path::new("no/such/key")).contains("openssl genpkey"));
        assert!(judged(MESSAGE, &SIGNATURE, PRIVATE).unwrap_err().contains("openssl pkey -pubout"));
    }
}
