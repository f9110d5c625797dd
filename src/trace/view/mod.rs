//! Reports for people: tables for a terminal, a page for a browser.

mod html;
mod page;
mod sections;
mod table;
mod timeline;

pub use html::html;
pub use table::{import_summary, losses, table, unused_files};

/// Milliseconds with three decimals.
#[must_use]
pub fn milliseconds(ns: i64) -> String {
    // Rounded half away from zero in integers: no detour through a float.
    let micros = (ns.unsigned_abs() + 500) / 1000;
    let sign = if ns < 0 && micros > 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", micros / 1000, micros % 1000)
}

/// Microseconds with one decimal.
#[must_use]
pub fn microseconds(ns: i64) -> String {
    let tenths = (ns.unsigned_abs() + 50) / 100;
    let sign = if ns < 0 && tenths > 0 { "-" } else { "" };
    format!("{sign}{}.{}", tenths / 10, tenths % 10)
}

/// A share with one decimal.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A number of things, with its word in singular or plural.
#[must_use]
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A data size with three significant digits.
#[must_use]
pub fn size(bytes: i64) -> String {
    crate::units::si(bytes as f64, "B")
}

/// At most `length` characters, the end cut off.
#[must_use]
pub fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(length.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A kernel name for people: without return type and parameters, and of the template arguments
/// only the one that tells instances apart.
#[must_use]
pub fn short_kernel_name(name: &str) -> String {
    let name = name.replace("(anonymous namespace)::", "").replace("at::native::", "");
    let name = name.strip_prefix("void ").unwrap_or(&name);
    let mut short = String::new();
    let mut arguments: Vec<String> = vec![String::new()];
    let mut depth = 0_usize;
    let mut lists = 0;
    for c in name.chars() {
        match c {
            '<' => {
                depth += 1;
                if depth == 1 {
                    lists += 1;
                    short.push('<');
                    continue;
                }
            }
            '>' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    if lists == 1 {
                        short.push_str(&telling(&arguments));
                    }
                    short.push('>');
                    continue;
                }
            }
            '(' if depth == 0 && !short.is_empty() && !short.ends_with("::") => break,
            ',' if depth == 1 && lists == 1 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            short.push(c);
        } else if let (1, Some(last)) = (lists, arguments.last_mut()) {
            last.push(c);
        }
    }
    let short = short.trim();
    if short.is_empty() { name.to_owned() } else { short.to_owned() }
}

/// The template argument that tells what a kernel does: the first that is no number and no
/// element type, without its own arguments and namespaces.
fn telling(arguments: &[String]) -> String {
    const TYPES: [&str; 18] = [
        "float",
        "double",
        "int",
        "long",
        "bool",
        "char",
        "short",
        "half",
        "true",
        "false",
        "unsigned",
        "signed",
        "c10",
        "__half",
        "__nv_bfloat16",
        "cutlass",
        "BFloat16",
        "Half",
    ];
    arguments
        .iter()
        .filter_map(|argument| {
            let head = argument.trim().split(['<', '(', '{', '*', '&']).next()?;
            let last = head.trim_end_matches(':').rsplit("::").next()?.trim();
            let first_word = last.split([' ', '_']).next().unwrap_or_default();
            let useful = last.chars().any(char::is_alphabetic)
                && !TYPES.contains(&last)
                && !TYPES.contains(&first_word)
                && !head.trim().starts_with("c10::");
            let letter = last.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
            (useful && letter).then(|| shortened(last, 32))
        })
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        assert_eq!(milliseconds(1_234_567), "1.235");
        assert_eq!(milliseconds(-400), "0.000");
        assert_eq!(milliseconds(-1500), "-0.002");
        assert_eq!(microseconds(1_260), "1.3");
        assert_eq!(percent(0.1234), "12.3 %");
    }

    #[test]
    fn kernel_names_for_people() {
        assert_eq!(
            short_kernel_name(
                "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, \
                 at::detail::Array<char*, 1> >(int, at::native::FillFunctor<float>)"
            ),
            "vectorized_elementwise_kernel<FillFunctor>"
        );
        assert_eq!(
            short_kernel_name(
                "void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(int)"
            ),
            "multimem_all_reduce_kernel<>"
        );
        assert_eq!(short_kernel_name("ampere_sgemm_128x64_nn"), "ampere_sgemm_128x64_nn");
        assert_eq!(short_kernel_name("Memcpy HtoD (Pinned -> Device)"), "Memcpy HtoD");
        assert_eq!(short_kernel_name("<>"), "<>");
    }
}
