package org.edgehadanorm.core.text;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

import org.edgehadanorm.core.BundleException;

/** The most probable way to write a piece in tokens of the vocabulary (Kudo 2018, arXiv 1804.10959). */
final class Unigram implements Model {
    /** What an unknown character scores below the least probable token. */
    private static final double UNKNOWN_PENALTY = 10;

    private final Vocabulary vocabulary = new Vocabulary();
    private final double[] scores;
    private final double unknownScore;
    private final int unknownId;
    private final boolean byteFallback;
    private final int longest;

    Unigram(Part part) throws BundleException {
        List<?> entries = part.list("vocab");
        scores = new double[entries.size()];
        double least = Double.POSITIVE_INFINITY;
        int most = 0;
        for (int id = 0; id < scores.length; id++) {
            List<?> entry = entries.get(id) instanceof List ? (List<?>) entries.get(id) : Collections.emptyList();
            if (entry.size() != 2 || !(entry.get(0) instanceof String) || !(entry.get(1) instanceof Number)) {
                throw new BundleException(part.where() + ".vocab[" + id
                        + "] is not a token and its score; copy the bundle again");
            }
            vocabulary.put((String) entry.get(0), id);
            scores[id] = ((Number) entry.get(1)).doubleValue();
            least = Math.min(least, scores[id]);
            most = Math.max(most, ((String) entry.get(0)).length());
        }
        unknownScore = least - UNKNOWN_PENALTY;
        unknownId = part.has("unk_id") ? part.integer("unk_id") : -1;
        byteFallback = part.flag("byte_fallback", false);
        longest = most;
    }

    /** A token for each stretch of the best path; unknown characters side by side are one. */
    @Override
    public List<Token> tokens(String text) throws BundleException {
        Path path = new Path(text.length());
        for (int at = 0; at < text.length(); at = text.offsetByCodePoints(at, 1)) {
            extend(path, text, at);
        }
        List<String> stretches = new ArrayList<>();
        for (int end = text.length(); end > 0;) {
            int start = path.starts[end];
            while (start > 0 && path.ids[end] == unknownId && path.ids[start] == unknownId) {
                start = path.starts[start];
            }
            stretches.add(text.substring(start, end));
            end = start;
        }
        Collections.reverse(stretches);
        List<Token> tokens = new ArrayList<>();
        for (String stretch : stretches) {
            tokens.addAll(written(stretch));
        }
        return tokens;
    }

    @Override
    public int id(String token) {
        return vocabulary.id(token);
    }

    @Override
    public String unknown() {
        return "";
    }

    /** Offers the path every token that begins at a place, or else the one unknown character there. */
    private void extend(Path path, String text, int at) throws BundleException {
        int single = text.offsetByCodePoints(at, 1);
        boolean known = false;
        for (int end = at + 1; end <= Math.min(text.length(), at + longest); end++) {
            int id = vocabulary.id(text.substring(at, end));
            if (id >= 0) {
                path.offer(at, end, id, scores[id]);
                known |= end == single;
            }
        }
        if (!known) {
            if (unknownId < 0) {
                throw new BundleException("the model does not know '" + text.substring(at, single)
                        + "'; use other words");
            }
            path.offer(at, single, unknownId, unknownScore);
        }
    }

    private List<Token> written(String stretch) {
        int id = vocabulary.id(stretch);
        List<Token> bytes = id < 0 && byteFallback ? vocabulary.bytes(stretch) : Collections.emptyList();
        return bytes.isEmpty()
                ? Collections.singletonList(new Token(id < 0 ? unknownId : id, stretch, false)) : bytes;
    }

    /** The best way to each place of a text. */
    private static final class Path {
        private final double[] scores;
        private final int[] starts;
        private final int[] ids;

        Path(int length) {
            scores = new double[length + 1];
            starts = new int[length + 1];
            ids = new int[length + 1];
            java.util.Arrays.fill(starts, -1);
        }

        void offer(int start, int end, int id, double score) {
            double total = score + scores[start];
            if (starts[end] < 0 || total > scores[end]) {
                scores[end] = total;
                starts[end] = start;
                ids[end] = id;
            }
        }
    }
}
