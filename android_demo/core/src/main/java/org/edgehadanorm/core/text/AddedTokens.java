package org.edgehadanorm.core.text;

import java.util.ArrayList;
import java.util.List;

import org.edgehadanorm.core.BundleException;

/** Tokens that are found in a prompt before the model sees it, such as &lt;/s&gt;. */
final class AddedTokens {
    private final List<Added> verbatim = new ArrayList<>();
    private final List<Added> normalized = new ArrayList<>();

    /** parts: the list `added_tokens`. */
    AddedTokens(List<Part> parts, Model model, Normalizer normalizer) throws BundleException {
        for (Part part : parts) {
            boolean isNormalized = part.flag("normalized", true);
            Added added = new Added(part, isNormalized ? normalizer : Normalizer.NONE);
            int known = model.id(part.text("content"));
            if (known >= 0 && known != added.id) {
                throw new BundleException(part.where() + " has another id than the vocabulary; copy the bundle again");
            }
            part.finish();
            if (!added.content.isEmpty()) {
                (isNormalized ? normalized : verbatim).add(added);
            }
        }
    }

    /** The id of a token by what the file calls it, or -1. */
    int id(String name) {
        for (List<Added> some : java.util.Arrays.asList(verbatim, normalized)) {
            for (Added added : some) {
                if (added.name.equals(name)) {
                    return added.id;
                }
            }
        }
        return -1;
    }

    /** The pieces of a prompt, normalized where they are not tokens of this list. */
    List<Piece> pieces(Slice prompt, Normalizer normalizer) {
        List<Piece> pieces = new ArrayList<>();
        for (Piece piece : split(prompt, verbatim)) {
            if (piece.isToken()) {
                pieces.add(piece);
            } else {
                pieces.addAll(split(normalizer.normalized(piece.slice()), normalized));
            }
        }
        return pieces;
    }

    /** Cuts out the leftmost tokens, the longest of those that begin at one place. */
    private static List<Piece> split(Slice slice, List<Added> tokens) {
        List<Piece> pieces = new ArrayList<>();
        String text = slice.text();
        int last = 0;
        for (int at = 0; at < text.length();) {
            Added found = longest(text, at, tokens);
            if (found == null) {
                at++;
                continue;
            }
            int end = at + found.content.length();
            if (found.fits(text, at, end)) {
                int start = found.left(text, at, last);
                if (last < start) {
                    pieces.add(new Piece(slice.part(last, start), -1));
                }
                last = found.right(text, end);
                pieces.add(new Piece(slice.part(start, last), found.id));
            }
            at = end;
        }
        if (last < text.length()) {
            pieces.add(new Piece(slice.part(last, text.length()), -1));
        }
        return pieces;
    }

    private static Added longest(String text, int at, List<Added> tokens) {
        Added found = null;
        for (Added added : tokens) {
            if (text.startsWith(added.content, at)
                    && (found == null || added.content.length() > found.content.length())) {
                found = added;
            }
        }
        return found;
    }

    /** A piece of a prompt: a token of the list, or text. */
    static final class Piece {
        private final Slice slice;
        private final int id;

        Piece(Slice slice, int id) {
            this.slice = slice;
            this.id = id;
        }

        boolean isToken() {
            return id >= 0;
        }

        int id() {
            return id;
        }

        Slice slice() {
            return slice;
        }
    }

    /** One token of the list. */
    private static final class Added {
        private final String name;
        private final String content;
        private final int id;
        private final boolean singleWord;
        private final boolean takesLeft;
        private final boolean takesRight;

        Added(Part part, Normalizer normalizer) throws BundleException {
            name = part.text("content");
            content = normalizer.normalized(Slice.of(name)).text();
            id = part.integer("id");
            singleWord = part.flag("single_word", false);
            takesLeft = part.flag("lstrip", false);
            takesRight = part.flag("rstrip", false);
            part.flag("special", false);  // matters when ids become text
        }

        /** Whether it may stand between these characters. */
        boolean fits(String text, int start, int end) {
            return !singleWord || !(start > 0 && isWord(text.codePointBefore(start))
                    || end < text.length() && isWord(text.codePointAt(end)));
        }

        /** Where it begins with the white space before it that is its own. */
        int left(String text, int start, int least) {
            int left = start;
            while (takesLeft && left > least && Spaces.is(text.charAt(left - 1))) {
                left--;
            }
            return left;
        }

        /** Where it ends with the white space after it that is its own. */
        int right(String text, int end) {
            int right = end;
            while (takesRight && right < text.length() && Spaces.is(text.charAt(right))) {
                right++;
            }
            return right;
        }

        private static boolean isWord(int point) {
            switch (Character.getType(point)) {
                case Character.NON_SPACING_MARK:
                case Character.ENCLOSING_MARK:
                case Character.COMBINING_SPACING_MARK:
                case Character.DECIMAL_DIGIT_NUMBER:
                case Character.CONNECTOR_PUNCTUATION:
                    return true;
                default:
                    return Character.isAlphabetic(point) || point == 0x200C || point == 0x200D;
            }
        }
    }
}
