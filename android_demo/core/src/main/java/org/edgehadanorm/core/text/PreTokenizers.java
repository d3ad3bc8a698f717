package org.edgehadanorm.core.text;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.regex.Pattern;

import org.edgehadanorm.core.BundleException;
import org.edgehadanorm.core.text.Splitter.Behavior;

/** The pre-tokenizers of a tokenizer.json by their names. */
final class PreTokenizers {
    private static final String SPACE = "[" + Spaces.CLASS + "]";
    /** GPT-2's words: contractions, letters, numbers and other characters, with the space before them. */
    private static final Pattern BYTE_LEVEL_WORDS = Pattern.compile("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^"
            + Spaces.CLASS + "\\p{L}\\p{N}]+|" + SPACE + "+(?![^" + Spaces.CLASS + "])|" + SPACE + "+");

    private PreTokenizers() {
    }

    /** Throws BundleException, which names it, for one that is not understood. */
    static PreTokenizer of(Part part) throws BundleException {
        String type = part.text("type");
        PreTokenizer made;
        switch (type) {
            case "Sequence":
                made = sequence(part.parts("pretokenizers"));
                break;
            case "WhitespaceSplit":
                made = new Splitter(Pattern.compile(SPACE), Behavior.REMOVED, false)::split;
                break;
            case "Metaspace":
                made = metaspace(part);
                break;
            case "ByteLevel":
                made = byteLevel(part);
                break;
            case "Split":
                made = new Splitter(Patterns.of(part), behavior(part), part.flag("invert", false))::split;
                break;
            default:
                throw part.unknown("the pre-tokenizer '" + type + "'");
        }
        part.finish();
        return made;
    }

    private static PreTokenizer sequence(List<Part> parts) throws BundleException {
        List<PreTokenizer> all = new ArrayList<>();
        for (Part part : parts) {
            all.add(of(part));
        }
        return slice -> {
            List<Slice> slices = Collections.singletonList(slice);
            for (PreTokenizer each : all) {
                List<Slice> finer = new ArrayList<>();
                for (Slice coarse : slices) {
                    finer.addAll(each.split(coarse));
                }
                slices = finer;
            }
            return slices;
        };
    }

    private static PreTokenizer metaspace(Part part) throws BundleException {
        String mark = part.text("replacement");
        String scheme = part.text("prepend_scheme", part.flag("add_prefix_space", true) ? "always" : "never");
        boolean split = part.flag("split", true);
        part.text("str_rep", mark);  // says the same as `replacement`
        if (!scheme.equals("always") && !scheme.equals("first") && !scheme.equals("never")) {
            throw part.unknown("the prepend_scheme '" + scheme + "'");
        }
        Splitter splitter = new Splitter(Pattern.compile(Pattern.quote(mark)), Behavior.MERGEDWITHNEXT, false);
        return slice -> {
            Slice.Builder marked = new Slice.Builder();
            for (int i = 0; i < slice.text().length(); i++) {
                char c = slice.text().charAt(i);
                marked.append(c == ' ' ? mark : String.valueOf(c), slice.origin(i));
            }
            Slice whole = marked.slice();
            boolean wanted = scheme.equals("always") || scheme.equals("first") && whole.isFirst();
            if (wanted && !whole.text().startsWith(mark)) {
                whole = whole.after(mark);
            }
            return split ? splitter.split(whole) : Collections.singletonList(whole);
        };
    }

    private static PreTokenizer byteLevel(Part part) throws BundleException {
        boolean prefixed = part.flag("add_prefix_space", true);
        boolean words = part.flag("use_regex", true);
        part.flag("trim_offsets", true);  // changes no id
        Splitter splitter = new Splitter(BYTE_LEVEL_WORDS, Behavior.ISOLATED, false);
        return slice -> {
            Slice whole = prefixed && !slice.text().startsWith(" ") ? slice.after(" ") : slice;
            List<Slice> bytes = new ArrayList<>();
            for (Slice word : words ? splitter.split(whole) : Collections.singletonList(whole)) {
                bytes.add(ByteLetters.of(word));
            }
            return bytes;
        };
    }

    private static Behavior behavior(Part part) throws BundleException {
        String name = part.text("behavior");
        try {
            return Behavior.valueOf(name.toUpperCase(Locale.ROOT));
        } catch (IllegalArgumentException error) {
            throw part.unknown("the behavior '" + name + "'");
        }
    }
}
