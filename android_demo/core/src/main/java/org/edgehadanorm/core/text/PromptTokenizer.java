package org.edgehadanorm.core.text;

import java.io.File;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;

import org.edgehadanorm.core.BundleException;
import org.edgehadanorm.core.Text;

/** A tokenizer.json at a fixed length, as a text encoder of a bundle is asked. */
public final class PromptTokenizer {
    private static final int SHOWN = 60;

    private final Tokenizer tokenizer;
    private final int length;
    private final int padId;
    private final boolean lower;
    private final String prefix;

    /**
     * length: of the ids, which padId fills up. lower: prompts are lower-cased, and stripped of white space at their
     * ends, first. prefix: stands before every prompt but a negative one.
     */
    public PromptTokenizer(File file, int length, int padId, boolean lower, String prefix) throws BundleException {
        this.tokenizer = Tokenizer.read(file);
        this.length = length;
        this.padId = padId;
        this.lower = lower;
        this.prefix = prefix;
    }

    /** The ids of a prompt without padding. Throws BundleException for unknown words and for too many tokens. */
    public long[] ids(String prompt) throws BundleException {
        return ids(prompt, prefix, length);
    }

    /** The same of a negative prompt, which has at most so many tokens. */
    public long[] negativeIds(String prompt, int most) throws BundleException {
        return ids(prompt, "", most);
    }

    private long[] ids(String prompt, String before, int most) throws BundleException {
        String said = lower ? Spaces.stripped(prompt.toLowerCase(Locale.ROOT)) : prompt;
        List<Token> tokens = tokenizer.tokens(before + said);
        int unknown = tokenizer.unknownId();
        for (Token token : tokens) {
            if (unknown >= 0 && token.id() == unknown && !token.isSpecial()) {
                throw new BundleException("prompt '" + shown(prompt) + "': the model does not know the word '"
                        + token.text() + "'; use another");
            }
        }
        if (tokens.size() > most) {
            throw new BundleException("prompt '" + shown(prompt) + "': " + tokens.size()
                    + " tokens, the model takes at most " + most + "; shorten it");
        }
        return tokens.stream().mapToLong(Token::id).toArray();
    }

    /** Ids filled up to the length. */
    public long[] padded(long[] ids) {
        long[] all = Arrays.copyOf(ids, length);
        Arrays.fill(all, ids.length, length, padId);
        return all;
    }

    public int length() {
        return length;
    }

    private static String shown(String prompt) {
        return Text.shortened(Text.plain(prompt.replaceAll("[" + Spaces.CLASS + "]+", " ")), SHOWN);
    }
}
