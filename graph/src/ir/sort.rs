//! Topological order. ONNX asks for it; files that break it are sorted if that is possible.

use std::collections::{BTreeSet, HashMap};

use streampool_core::{Error, Result};

/// An order of `nodes` in which every value is made before it is used, stable: a sorted input stays as it is. `uses` and `makes` name values;
/// values that no node makes are ignored here.
pub(super) fn order(names: &[String], uses: &[Vec<String>], makes: &[Vec<String>]) -> Result<Vec<usize>> {
    let maker: HashMap<&str, usize> =
        makes.iter().enumerate().flat_map(|(i, m)| m.iter().map(move |v| (v.as_str(), i))).collect();
    let mut waits = vec![0usize; names.len()];
    let mut wakes: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
    let mut sorted = true;
    for (i, used) in uses.iter().enumerate() {
        for v in used {
            if let Some(&m) = maker.get(v.as_str()) {
                sorted &= m < i;
                waits[i] += 1;
                wakes[m].push(i);
            }
        }
    }
    if sorted {
        return Ok((0..names.len()).collect());
    }
    let mut ready: BTreeSet<usize> = (0..names.len()).filter(|&i| waits[i] == 0).collect();
    let mut out = Vec::with_capacity(names.len());
    while let Some(i) = ready.pop_first() {
        out.push(i);
        for &w in &wakes[i] {
            waits[w] -= 1;
            if waits[w] == 0 {
                ready.insert(w);
            }
        }
    }
    if out.len() < names.len() {
        let stuck: Vec<&str> =
            (0..names.len()).filter(|&i| waits[i] > 0).take(8).map(|i| names[i].as_str()).collect();
        return Err(Error::invalid_model(format!(
            "the graph has a cycle through or before these nodes: '{}'",
            stuck.join("', '")
        )));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(s: &[&[&str]]) -> Vec<Vec<String>> {
        s.iter().map(|l| l.iter().map(|x| x.to_string()).collect()).collect()
    }

    #[test]
    fn unsorted_nodes_are_sorted_and_cycles_named() {
        let names: Vec<String> = ["c", "a", "b"].map(String::from).to_vec();
        let order1 = order(&names, &v(&[&["y"], &["in"], &["x"]]), &v(&[&["z"], &["x"], &["y"]])).unwrap();
        assert_eq!(order1, [1, 2, 0]);
        let e = order(&names, &v(&[&["y"], &["in"], &["z"]]), &v(&[&["z"], &["x"], &["y"]])).unwrap_err();
        assert!(e.is_invalid_model() && e.to_string().contains("'c', 'b'"), "{e}");
    }
}
