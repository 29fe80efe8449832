use super::*;
use crate::model::ScriptedModel;
use crate::sampling::Greedy;
use crate::{Config, Request, Session};
use proptest::prelude::*;
use std::fs;

const OWNER: Owner = Owner { tokenizer: Fingerprint(11), model: 22, n_vocab: 300 };

fn learn(session: &mut Session<ScriptedModel>, start: u32) -> f64 {
    let prompt: Vec<Token> = (0..8).map(|index| Token((start * 31 + index * 7) % 300)).collect();
    let request = Request { prompt: &prompt, n_max: 60, end_tokens: &[] };
    let mut greedy = Greedy;
    let mut generation = session.generate(&request, &mut greedy).unwrap();
    while generation.advance().unwrap().is_some() {}
    generation.stats().tokens_per_round()
}

fn session() -> Session<ScriptedModel> {
    let mut config = Config::default();
    config.draft.budget = Some(8);
    config.representative.overlay_contexts = 4096;
    config.representative.recall_contexts = 4096;
    config.representative.log_tokens = 8192;
    Session::new(ScriptedModel::new(300, 2, 12.0, 9), config).unwrap()
}

fn known(session: &mut Session<ScriptedModel>) -> &mut Representative {
    session.decoder_mut().representative_mut()
}

fn file(path: &Path) -> MemoryFile {
    MemoryFile::new(path, OWNER, MAX_BYTES, true)
}

fn counts(known: &Representative) -> (usize, usize, usize) {
    (known.overlay.table().len(), known.recall.table().len(), known.log.tokens().len())
}

/// A folder, the file in it, and a session that learnt something and saved it.
fn saved() -> (tempfile::TempDir, PathBuf, Session<ScriptedModel>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.aded");
    let mut first = session();
    (0..3).for_each(|start| _ = learn(&mut first, start));
    assert_eq!(file(&path).save(known(&mut first)).unwrap(), Kept::Saved);
    (folder, path, first)
}

#[test]
fn what_was_learnt_is_known_in_the_next_process() {
    let (_folder, path, mut first) = saved();
    let mut second = session();
    assert!(file(&path).load(known(&mut second)).unwrap());
    assert_eq!(counts(known(&mut second)), counts(known(&mut first)));
    assert_eq!(known(&mut second).log.documents().count(), 3);
    let (mut cold, warm) = (session(), learn(&mut second, 1));
    assert!(warm > learn(&mut cold, 1) + 1.0, "{warm}");
    assert_eq!(warm, learn(&mut first, 1), "as if the process had gone on");
    let summary = summary(&path).unwrap();
    assert_eq!((summary.owner, summary.n_log_documents), (OWNER, 3));
    assert_eq!(summary.n_bytes, fs::metadata(&path).unwrap().len());
    assert!(summary.n_overlay > 100 && summary.n_recall > 100 && summary.n_outcomes > 100);
    assert_eq!(texts(&path).unwrap()[0][0], Token(0));
}

#[test]
fn nothing_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.aded");
    let mut session = session();
    assert!(!file(&path).load(known(&mut session)).unwrap());
    fs::write(&path, b"").unwrap();
    assert!(!file(&path).load(known(&mut session)).unwrap());
    assert_eq!(file(&path).save(known(&mut session)).unwrap(), Kept::Saved);
    assert!(file(&path).load(known(&mut session)).unwrap());
}

#[cfg(unix)]
#[test]
fn only_the_user_reads_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, path, _) = saved();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the file and its lock: {names:?}");
}

#[test]
fn two_that_saved_at_once_lose_nothing() {
    let (_folder, path, _) = saved();
    let mut sessions = [session(), session()];
    let mut files = [file(&path), file(&path)];
    for round in 0..3 {
        for (index, (session, file)) in sessions.iter_mut().zip(&mut files).enumerate() {
            if round == 0 {
                assert!(file.load(known(session)).unwrap());
            }
            learn(session, 10 + 10 * index as u32 + round);
        }
        for (session, file) in sessions.iter_mut().zip(&mut files) {
            assert_eq!(file.save(known(session)).unwrap(), Kept::Saved);
        }
    }
    let texts = texts(&path).unwrap();
    assert_eq!(texts.len(), 9, "three from the start, three of each");
    let mut third = session();
    file(&path).load(known(&mut third)).unwrap();
    for session in &mut sessions {
        let known = known(session);
        for document in known.log.documents() {
            assert!(texts.iter().any(|text| text == document));
            for window in document.windows(3) {
                let row = third.decoder().representative().overlay.pair(window[0], window[1]).expect("counted");
                assert!(row.iter().any(|(token, _)| token == window[2]));
            }
        }
    }
}

#[test]
fn the_lock_of_another_process_is_respected() {
    let (folder, path, mut first) = saved();
    let lock = fs::File::open(folder.path().join(".m.aded.lock")).unwrap();
    lock.lock().unwrap();
    let leftover = folder.path().join(".m.aded.123-4.tmp");
    fs::write(&leftover, b"half").unwrap();
    assert_eq!(file(&path).save(known(&mut first)).unwrap(), Kept::Busy);
    assert!(leftover.exists(), "whoever holds the lock may be writing it");
    drop(lock);
    fs::write(folder.path().join(".m.aded.other.tmp"), b"somebody's").unwrap();
    assert_eq!(file(&path).save(known(&mut first)).unwrap(), Kept::Saved);
    assert!(!leftover.exists() && folder.path().join(".m.aded.other.tmp").exists());
}

/// What happens to a file that is spoilt: error text, and whether it was set aside.
fn spoilt(bytes: &[u8], is_own_place: bool) -> (String, bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.aded");
    fs::write(&path, bytes).unwrap();
    let mut session = session();
    let mut file = MemoryFile::new(&path, OWNER, MAX_BYTES, is_own_place);
    let error = file.load(known(&mut session)).expect_err("it is spoilt");
    assert!(error.is_format() && error.to_string().contains("m.aded`"), "{error}");
    let is_aside = !path.exists();
    assert_eq!(folder.path().join("m.aded.bad").exists(), is_aside);
    let saved = file.save(known(&mut session));
    assert_eq!(saved.is_ok(), is_aside, "{saved:?}");
    assert_eq!(fs::read(&path).unwrap() == bytes, !is_aside, "what is not set aside stays as it is");
    (error.to_string(), is_aside)
}

#[test]
fn spoilt_files_are_set_aside_and_those_of_others_left_alone() {
    let (_folder, path, mut first) = saved();
    let good = fs::read(&path).unwrap();
    for place in [true, false] {
        let (text, aside) = spoilt(&good[..good.len() / 2], place);
        assert!(aside && text.contains("truncated") && text.contains("set aside as"), "{text}");
        let mut altered = good.clone();
        altered[good.len() / 2] ^= 1;
        let (text, aside) = spoilt(&altered, place);
        assert!(aside && text.contains("altered"), "{text}");
        let (text, aside) =
            spoilt(b"a letter to my aunt, who has nothing to do with this, and long enough to be one", place);
        assert!(aside == place && text.contains("does not begin like an aded file"), "{text}");
    }
    let other = Owner { model: 23, ..OWNER };
    let mut elsewhere = MemoryFile::new(&path, other, MAX_BYTES, true);
    let text = elsewhere.load(known(&mut first)).unwrap_err().to_string();
    assert!(text.contains("memory of another model (0000000000000016)"), "{text}");
    assert!(elsewhere.save(known(&mut first)).unwrap_err().to_string().contains("stays as it is"));
    let mut elsewhere = MemoryFile::new(&path, Owner { tokenizer: Fingerprint(1), ..OWNER }, MAX_BYTES, true);
    assert!(elsewhere.load(known(&mut first)).unwrap_err().to_string().contains("another tokenizer"));
    assert_eq!(fs::read(&path).unwrap(), good);
}

#[test]
fn every_altered_bit_and_every_cut_is_found() {
    let (_folder, path, _) = saved();
    let good = fs::read(&path).unwrap();
    let head = (0..2000).chain((2000..good.len() * 8).step_by(977));
    for bit in head {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(summary_of(&bytes, "x").unwrap_err().is_format(), "bit {bit}");
    }
    for length in (0..300).chain((300..good.len()).step_by(101)) {
        assert!(summary_of(&good[..length], "x").unwrap_err().is_format(), "{length} bytes");
    }
}

/// Rows are taken from the file while it is read; one that turns out to be spoilt leaves nothing behind.
#[test]
fn a_file_that_is_refused_at_its_end_leaves_nothing_behind() {
    let (_folder, path, _) = saved();
    let good = words(&path);
    let refused = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        fs::write(&path, bytes).unwrap();
        let mut fresh = session();
        assert!(file(&path).load(known(&mut fresh)).unwrap_err().is_format());
        assert!(known(&mut fresh).is_blank() && counts(known(&mut fresh)) == (0, 0, 0));
        learn(&mut fresh, 1)
    };
    let cold = learn(&mut session(), 1);
    let mut altered = good.clone();
    altered[good.len() - 3] ^= 1;
    assert_eq!(refused(&altered), cold, "the last word is altered");
    let entry = (16..).step_by(6).find(|&at| good[at] == section::OVERLAY).unwrap();
    let mut out_of_range = good.clone();
    // The last row of the overlay has a token that is none.
    out_of_range[(good[entry + 2] + good[entry + 4]) as usize - 12] = 300;
    let sealed = seal(out_of_range);
    let sealed: Vec<u32> = sealed.as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
    assert_eq!(refused(&sealed), cold, "a row is out of range");
}

#[test]
fn sections_in_another_order_or_place_are_read_as_well() {
    let (_folder, path, mut first) = saved();
    let good = words(&path);
    let entries: Vec<usize> = (16..).step_by(6).take(good[10] as usize).collect();
    // The table of sections turned round: what it says stays the same.
    let mut turned = good.clone();
    for (at, from) in entries.iter().zip(entries.iter().rev()) {
        turned[*at..at + 6].copy_from_slice(&good[*from..from + 6]);
    }
    // One word further, so that no section begins at a multiple of 16.
    let mut moved: Vec<u32> = good[..16 + 6 * entries.len()].to_vec();
    moved.push(0);
    moved.extend(&good[16 + 6 * entries.len()..]);
    entries.iter().for_each(|at| moved[at + 2] += 1);
    moved[8] += 1;
    for words in [turned, moved] {
        fs::write(&path, seal(words)).unwrap();
        let mut back = session();
        assert!(file(&path).load(known(&mut back)).unwrap());
        assert_eq!(counts(known(&mut back)), counts(known(&mut first)));
    }
}

#[test]
fn the_size_is_capped_and_what_is_new_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.aded");
    let mut long = session();
    (0..60).for_each(|start| _ = learn(&mut long, start));
    for max_bytes in [64 << 10, 100_000, 200_000] {
        // Each save meets what the one before had room for, the end of a text among it.
        MemoryFile::new(&path, OWNER, max_bytes, true).save(known(&mut long)).unwrap();
        let n_bytes = fs::metadata(&path).unwrap().len();
        assert!(n_bytes <= max_bytes && n_bytes > max_bytes * 9 / 10, "{n_bytes} of {max_bytes}");
        let mut back = session();
        assert!(file(&path).load(known(&mut back)).unwrap());
        let last = known(&mut long).log.documents().last().unwrap().to_vec();
        assert_eq!(known(&mut back).log.documents().last().unwrap(), &last[..]);
        let known = known(&mut back);
        for window in last[last.len() - 8..].windows(3) {
            assert!(known.overlay.pair(window[0], window[1]).is_some(), "learnt last, kept");
        }
        assert!(known.overlay.table().len() < long.decoder().representative().overlay.table().len());
    }
}

#[test]
fn a_calibration_of_other_buckets_is_left_out() {
    let (_folder, path, _) = saved();
    let mut words = words(&path);
    let entry = (16..).step_by(6).find(|&at| words[at] == section::CALIBRATION).unwrap();
    let start = words[entry + 2] as usize;
    words[start] ^= 1;
    fs::write(&path, seal(words)).unwrap();
    let mut session = session();
    assert!(file(&path).load(known(&mut session)).unwrap());
    assert!(counts(known(&mut session)).0 > 100);
    assert!(known(&mut session).calibrations().iter().all(|calibration| calibration.n_outcomes() == 0.0));
}

fn words(path: &Path) -> Vec<u32> {
    fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect()
}

fn seal(mut words: Vec<u32>) -> Vec<u8> {
    let body = words.len() - 2;
    let sum = store::checksum(&words[..body]);
    (words[body], words[body + 1]) = (sum as u32, (sum >> 32) as u32);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever a sealed file holds: an error, or a memory that can be drafted from.
    #[test]
    fn sealed_nonsense_is_an_error_or_a_memory(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u32>()), 1..6),
    ) {
        let (_folder, path, _) = saved();
        let mut words = words(&path);
        for (place, word, value) in changes {
            // In the frame, in a section's entry or at its beginning, or anywhere.
            let bounds = [22usize, 52, 400, words.len()];
            let n = bounds[place.index(bounds.len())];
            words[word.index(n)] = value;
        }
        fs::write(&path, seal(words)).unwrap();
        let mut session = session();
        let _ = file(&path).load(known(&mut session));
        (0..2).for_each(|start| _ = learn(&mut session, start));
        let _ = file(&path).save(known(&mut session));
    }
}

/// Prints the least of several times; `docs/memory.md` has the figure. Run it in release, on an idle machine.
#[test]
#[ignore = "a measurement"]
fn how_long_loading_takes_at_the_cap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.aded");
    let owner = Owner { n_vocab: 50_000, ..OWNER };
    let config = RepresentativeConfig { overlay_contexts: 1 << 19, recall_contexts: 1 << 19, ..Default::default() };
    let mut known = Representative::new(&config);
    for index in 0..600_000u32 {
        let token = |salt: u32| Token(index.wrapping_mul(2_654_435_761).rotate_left(salt) % 50_000);
        known.overlay.learn(token(0), token(7), token(13));
        known.recall.learn(token(3), token(11), &Default::default());
        known.log.push(token(5));
    }
    MemoryFile::new(&path, owner, MAX_BYTES, true).save(&mut known).unwrap();
    let mut times = Vec::new();
    for _ in 0..9 {
        let mut fresh = Representative::new(&config);
        let begun = std::time::Instant::now();
        assert!(MemoryFile::new(&path, owner, MAX_BYTES, true).load(&mut fresh).unwrap());
        times.push(begun.elapsed());
    }
    println!("{} bytes: {:?} at least, of {times:?}", fs::metadata(&path).unwrap().len(), times.iter().min().unwrap());
}
