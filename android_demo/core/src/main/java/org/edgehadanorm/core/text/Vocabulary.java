package org.edgehadanorm.core.text;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import org.edgehadanorm.core.BundleException;

/** Ids by token. */
final class Vocabulary {
    private final Map<String, Integer> ids = new HashMap<>();

    /** The value of a model's key `vocab`, an object of ids by token. */
    static Vocabulary of(Part model) throws BundleException {
        Vocabulary vocabulary = new Vocabulary();
        if (!(model.get("vocab") instanceof Map)) {
            throw new BundleException(model.where() + ".vocab is not an object; copy the bundle again");
        }
        for (Map.Entry<?, ?> entry : ((Map<?, ?>) model.get("vocab")).entrySet()) {
            if (!(entry.getValue() instanceof Long)) {
                throw new BundleException(model.where() + ".vocab has an id that is no integer; copy the bundle again");
            }
            vocabulary.put((String) entry.getKey(), ((Long) entry.getValue()).intValue());
        }
        return vocabulary;
    }

    void put(String token, int id) {
        ids.put(token, id);
    }

    /** -1 where there is no such token. */
    int id(String token) {
        Integer id = ids.get(token);
        return id == null ? -1 : id;
    }

    /** Tokens such as &lt;0x0A&gt; for the bytes of a text in UTF-8; none where one of them is missing. */
    List<Token> bytes(String text) {
        List<Token> tokens = new ArrayList<>();
        for (byte value : text.getBytes(StandardCharsets.UTF_8)) {
            int id = id(String.format("<0x%02X>", value & 0xFF));
            if (id < 0) {
                return new ArrayList<>();
            }
            tokens.add(new Token(id, text, false));
        }
        return tokens;
    }
}
