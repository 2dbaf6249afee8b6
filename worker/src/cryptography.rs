//! The one library for cryptography, `ring`, as the provider of TLS of the whole process.
//!
//! `reqwest` is built without a provider of its own and takes the one of the process, so whoever makes a
//! client calls [`install`] first.

use std::sync::Once;

/// Makes `ring` the provider of TLS, unless the process has chosen one before. Cheap after the first call.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // An error says that a program around this library has installed a provider: that one serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
