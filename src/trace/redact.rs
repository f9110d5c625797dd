//! What may be kept of free text.
//!
//! Names of kernels, calls, operators and annotations are kept, but a program can put anything
//! into an annotation. Text that looks like a credential is replaced; short identifying fields
//! (device names, versions, group names) must also be short and plain.

use std::borrow::Cow;

const REPLACEMENT: &str = "[redacted]";

/// Prefixes of well-known credentials, and how many characters must follow.
const PREFIXES: [(&str, usize); 21] = [
    ("hf_", 16),
    ("ghp_", 16),
    ("gho_", 16),
    ("ghs_", 16),
    ("ghu_", 16),
    ("github_pat_", 16),
    ("glpat-", 12),
    ("sk-", 16),
    ("sk_live_", 8),
    ("xoxb-", 8),
    ("xoxp-", 8),
    ("xapp-", 8),
    ("AKIA", 12),
    ("ASIA", 12),
    ("AIza", 20),
    ("ya29.", 12),
    ("eyJ", 20),
    ("npm_", 20),
    ("dop_v1_", 16),
    ("nvapi-", 12),
    ("wandb_v1_", 12),
];

/// Words that announce a credential when `=` or `:` and a value follow.
const WORDS: [&str; 9] = [
    "token",
    "password",
    "passwd",
    "secret",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "authorization",
];

fn is_secret_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'+' | b'=')
}

/// Replaces whatever looks like a credential.
#[must_use]
pub fn scrub(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    for (prefix, need) in PREFIXES {
        for (at, _) in text.match_indices(prefix) {
            // In the middle of a word it is part of a mangled symbol.
            if at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') {
                continue;
            }
            let after = at + prefix.len();
            let tail = bytes[after..]
                .iter()
                .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
                .count();
            // A credential mixes digits into its letters; an identifier rarely does.
            let digits = bytes[after..after + tail].iter().filter(|b| b.is_ascii_digit()).count();
            if tail >= need && digits > 0 {
                cuts.push((at, after + tail));
            }
        }
    }
    let lower = text.to_ascii_lowercase();
    for word in WORDS {
        for (at, _) in lower.match_indices(word) {
            let mut from = at + word.len();
            from += bytes[from..].iter().take_while(|b| matches!(b, b'"' | b'\'' | b' ')).count();
            if !matches!(bytes.get(from), Some(b'=' | b':')) || bytes.get(from + 1) == Some(&b':') {
                continue;
            }
            from += 1;
            from += bytes[from..].iter().take_while(|b| matches!(b, b'"' | b'\'' | b' ')).count();
            for scheme in ["bearer ", "basic "] {
                if lower[from..].starts_with(scheme) {
                    from += scheme.len();
                }
            }
            let tail = bytes[from..].iter().take_while(|b| is_secret_char(**b)).count();
            if tail >= 4 {
                cuts.push((from, from + tail));
            }
        }
    }
    if cuts.is_empty() {
        return Cow::Borrowed(text);
    }
    cuts.sort_unstable();
    let mut clean = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end) in cuts {
        if start >= done {
            clean.push_str(&text[done..start]);
            clean.push_str(REPLACEMENT);
        }
        done = done.max(end);
    }
    clean.push_str(&text[done..]);
    Cow::Owned(clean)
}

/// A short plain label (device name, version, group name), or nothing if it is not one.
#[must_use]
pub fn label(text: &str) -> Option<String> {
    let text = text.trim();
    let plain = text.len() <= 96
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " _-.:,/()[]+<>#@|".contains(c));
    (plain && matches!(scrub(text), Cow::Borrowed(_))).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_replaced() {
        for (text, clean) in [
            ("login hf_abcdefghij0123456789 ok", "login [redacted] ok"),
            ("HF_TOKEN=abcd1234", "HF_TOKEN=[redacted]"),
            ("{'api_key': 'zzzz1111'}", "{'api_key': '[redacted]'}"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
            ("AKIAIOSFODNN7EXAMPLE", "[redacted]"),
        ] {
            assert_eq!(scrub(text), clean);
        }
    }

    #[test]
    fn real_names_stay_as_they_are() {
        for name in [
            "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float> >",
            "nccl:all_reduce",
            "token_embedding",
            "sk_gemm: token::fuse",
            "ampere_sgemm_128x64_nn",
            "Cijk_Alik_Bljk_SB_Bias_AS_SAV_UserArgs_MT64x16x32_MI16x16x1",
        ] {
            assert!(matches!(scrub(name), Cow::Borrowed(_)), "{name}: {}", scrub(name));
        }
    }

    #[test]
    fn labels_are_short_and_plain() {
        assert_eq!(label("NVIDIA H100 80GB HBM3").as_deref(), Some("NVIDIA H100 80GB HBM3"));
        assert_eq!(label(&"x".repeat(200)), None);
        assert_eq!(label("a\nb"), None);
    }
}
