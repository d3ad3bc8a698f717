package org.edgehadanorm.core.text;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import org.edgehadanorm.core.BundleException;

/** Byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909): pairs merge in the order in which they were learnt. */
final class Bpe implements Model {
    private final Vocabulary vocabulary;
    private final Map<Long, Merge> merges = new HashMap<>();
    private final String unknown;
    private final String prefix;
    private final String suffix;
    private final boolean fusesUnknown;
    private final boolean byteFallback;
    private final boolean takesWholeWords;

    Bpe(Part part) throws BundleException {
        vocabulary = Vocabulary.of(part);
        unknown = part.text("unk_token", "");
        prefix = part.text("continuing_subword_prefix", "");
        suffix = part.text("end_of_word_suffix", "");
        fusesUnknown = part.flag("fuse_unk", false);
        byteFallback = part.flag("byte_fallback", false);
        takesWholeWords = part.flag("ignore_merges", false);
        part.requireNull("dropout");
        for (Object merge : part.list("merges")) {
            learn(merge, part);
        }
    }

    @Override
    public List<Token> tokens(String text) throws BundleException {
        if (takesWholeWords && vocabulary.id(text) >= 0) {
            return Collections.singletonList(new Token(vocabulary.id(text), text, false));
        }
        List<Token> symbols = symbols(text);
        for (int best = best(symbols); best >= 0; best = best(symbols)) {
            Token left = symbols.get(best);
            Token right = symbols.remove(best + 1);
            int id = merges.get(pair(left.id(), right.id())).id;
            symbols.set(best, new Token(id, left.text() + right.text(), false));
        }
        return symbols;
    }

    @Override
    public int id(String token) {
        return vocabulary.id(token);
    }

    @Override
    public String unknown() {
        return unknown;
    }

    /** `left right`, or a list of both. */
    private void learn(Object merge, Part part) throws BundleException {
        Object[] sides = merge instanceof String ? ((String) merge).split(" ", -1)
                : merge instanceof List ? ((List<?>) merge).toArray() : new Object[0];
        if (sides.length != 2 || !(sides[0] instanceof String) || !(sides[1] instanceof String)) {
            throw new BundleException(part.where() + ".merges[" + merges.size()
                    + "] is not a pair of tokens; copy the bundle again");
        }
        String left = (String) sides[0];
        String right = (String) sides[1];
        String both = left + (right.startsWith(prefix) ? right.substring(prefix.length()) : right);
        if (vocabulary.id(left) < 0 || vocabulary.id(right) < 0 || vocabulary.id(both) < 0) {
            throw new BundleException(part.where() + ".merges[" + merges.size()
                    + "] has a token that is not in the vocabulary; copy the bundle again");
        }
        merges.put(pair(vocabulary.id(left), vocabulary.id(right)), new Merge(merges.size(), vocabulary.id(both)));
    }

    /** A token for each character, or for its bytes, or the unknown one. */
    private List<Token> symbols(String text) throws BundleException {
        List<Token> symbols = new ArrayList<>();
        boolean afterUnknown = false;
        int end;
        for (int at = 0; at < text.length(); at = end) {
            end = text.offsetByCodePoints(at, 1);
            String character = text.substring(at, end);
            String symbol = (at > 0 ? prefix : "") + character + (end == text.length() ? suffix : "");
            int id = vocabulary.id(symbol);
            List<Token> bytes = id < 0 && byteFallback ? vocabulary.bytes(symbol) : Collections.emptyList();
            boolean isUnknown = id < 0 && bytes.isEmpty();
            if (id >= 0) {
                symbols.add(new Token(id, character, false));
            } else if (!bytes.isEmpty()) {
                symbols.addAll(bytes);
            } else if (!unknown.isEmpty() && !(afterUnknown && fusesUnknown)) {
                symbols.add(new Token(known(unknown), character, false));
            }
            afterUnknown = isUnknown;
        }
        return symbols;
    }

    private int known(String token) throws BundleException {
        int id = vocabulary.id(token);
        if (id < 0) {
            throw new BundleException("the model does not know a character, and has no '" + token
                    + "' for it; use other words");
        }
        return id;
    }

    /** Index of the left one of the two neighbours that merge first; -1 where none do. */
    private int best(List<Token> symbols) {
        int found = -1;
        int rank = Integer.MAX_VALUE;
        for (int i = 0; i + 1 < symbols.size(); i++) {
            Merge merge = merges.get(pair(symbols.get(i).id(), symbols.get(i + 1).id()));
            if (merge != null && merge.rank < rank) {
                rank = merge.rank;
                found = i;
            }
        }
        return found;
    }

    private static long pair(int left, int right) {
        return (long) left << 32 | right;
    }

    /** What a pair becomes, and when. */
    private static final class Merge {
        private final int rank;
        private final int id;

        Merge(int rank, int id) {
            this.rank = rank;
            this.id = id;
        }
    }
}
