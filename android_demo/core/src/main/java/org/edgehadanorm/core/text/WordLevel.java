package org.edgehadanorm.core.text;

import java.util.Collections;
import java.util.List;

import org.edgehadanorm.core.BundleException;

/** Every piece is a word of the vocabulary, or unknown. */
final class WordLevel implements Model {
    private final Vocabulary vocabulary;
    private final String unknown;

    WordLevel(Part part) throws BundleException {
        vocabulary = Vocabulary.of(part);
        unknown = part.text("unk_token");
    }

    @Override
    public List<Token> tokens(String text) throws BundleException {
        int id = vocabulary.id(text) >= 0 ? vocabulary.id(text) : vocabulary.id(unknown);
        if (id < 0) {
            throw new BundleException("the model does not know the word '" + text + "'; use other words");
        }
        return Collections.singletonList(new Token(id, text, false));
    }

    @Override
    public int id(String token) {
        return vocabulary.id(token);
    }

    @Override
    public String unknown() {
        return unknown;
    }
}
