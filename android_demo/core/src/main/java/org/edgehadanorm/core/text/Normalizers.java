package org.edgehadanorm.core.text;

import java.text.Normalizer.Form;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

import org.edgehadanorm.core.BundleException;

/** The normalizers of a tokenizer.json by their names. */
final class Normalizers {
    /** Small, and the one letter whose small form is two characters: I with a dot. */
    private static final int DOTTED_I = 0x130;
    private static final String SMALL_DOTTED_I = "i\u0307";

    private Normalizers() {
    }

    /** Throws BundleException, which names it, for one that is not understood. */
    static Normalizer of(Part part) throws BundleException {
        String type = part.text("type");
        Normalizer made;
        switch (type) {
            case "Sequence":
                made = sequence(part.parts("normalizers"));
                break;
            case "Lowercase":
                made = Normalizers::lowered;
                break;
            case "NFC":
            case "NFD":
            case "NFKC":
            case "NFKD":
                made = form(Form.valueOf(type));
                break;
            case "Strip":
                boolean left = part.flag("strip_left", true);
                boolean right = part.flag("strip_right", true);
                made = slice -> stripped(slice, left, right);
                break;
            case "Prepend":
                String before = part.text("prepend");
                made = slice -> slice.after(before);
                break;
            case "Replace":
                Pattern pattern = Patterns.of(part);
                String content = part.text("content");
                made = slice -> replaced(slice, pattern, content);
                break;
            case "Precompiled":
                made = charsmap(part);
                break;
            default:
                throw part.unknown("the normalizer '" + type + "'");
        }
        part.finish();
        return made;
    }

    private static Normalizer sequence(List<Part> parts) throws BundleException {
        List<Normalizer> all = new ArrayList<>();
        for (Part part : parts) {
            all.add(of(part));
        }
        return slice -> {
            Slice result = slice;
            for (Normalizer each : all) {
                result = each.normalized(result);
            }
            return result;
        };
    }

    private static Normalizer charsmap(Part part) throws BundleException {
        try {
            return new Charsmap(Base64.decoded(part.text("precompiled_charsmap")));
        } catch (IllegalArgumentException error) {
            throw new BundleException(part.where() + ".precompiled_charsmap is damaged; copy the bundle again", error);
        }
    }

    /** Character by character, wherever each stands. */
    private static Slice lowered(Slice slice) {
        Slice.Builder lower = new Slice.Builder();
        String text = slice.text();
        for (int at = 0; at < text.length(); at += Character.charCount(text.codePointAt(at))) {
            int point = text.codePointAt(at);
            String small = point == DOTTED_I
                    ? SMALL_DOTTED_I : new String(Character.toChars(Character.toLowerCase(point)));
            lower.append(small, slice.origin(at));
        }
        return lower.slice();
    }

    private static Normalizer form(Form form) {
        return slice -> {
            String text = java.text.Normalizer.normalize(slice.text(), form);
            Slice.Builder builder = new Slice.Builder();
            for (int i = 0; i < text.length(); i++) {  // where a char comes from matters at the beginning alone
                builder.append(text.substring(i, i + 1), slice.origin(i));
            }
            return builder.slice();
        };
    }

    private static Slice stripped(Slice slice, boolean left, boolean right) {
        String text = slice.text();
        int start = 0;
        int end = text.length();
        while (left && start < end && Spaces.is(text.charAt(start))) {
            start++;
        }
        while (right && start < end && Spaces.is(text.charAt(end - 1))) {
            end--;
        }
        return slice.part(start, end);
    }

    private static Slice replaced(Slice slice, Pattern pattern, String content) {
        Slice.Builder builder = new Slice.Builder();
        Matcher matcher = pattern.matcher(slice.text());
        int last = 0;
        while (matcher.find()) {
            builder.append(slice, last, matcher.start());
            builder.append(content, slice.origin(Math.max(matcher.end() - 1, 0)));
            last = matcher.end();
        }
        builder.append(slice, last, slice.text().length());
        return builder.slice();
    }
}
