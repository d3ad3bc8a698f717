package org.edgehadanorm.core.text;

import java.io.File;
import java.util.ArrayList;
import java.util.List;

import org.edgehadanorm.core.BundleException;
import org.edgehadanorm.core.JsonFile;

/**
 * A tokenizer.json of the `tokenizers` library. It gives the ids that the library gives, or refuses the file: what is
 * not understood is named, never passed over.
 */
public final class Tokenizer {
    private static final int MOST_BYTES = 256 << 20;

    private final Normalizer normalizer;
    private final PreTokenizer preTokenizer;
    private final Model model;
    private final AddedTokens added;
    private final Template template;

    private Tokenizer(Part part) throws BundleException {
        for (String key : new String[] {"version", "truncation", "padding", "decoder"}) {
            part.get(key);  // prompts are padded as the manifest says, never cut, and no ids become text here
        }
        normalizer = part.has("normalizer") ? Normalizers.of(part.part("normalizer")) : Normalizer.NONE;
        preTokenizer = part.has("pre_tokenizer") ? PreTokenizers.of(part.part("pre_tokenizer")) : PreTokenizer.NONE;
        template = part.has("post_processor") ? new Template(part.part("post_processor")) : new Template();
        model = model(part.part("model"));
        added = new AddedTokens(part.parts("added_tokens"), model, normalizer);
        part.finish();
    }

    /** Throws BundleException where the file cannot be read or is not understood. */
    public static Tokenizer read(File file) throws BundleException {
        return new Tokenizer(new Part(JsonFile.read(file, file.getName(), MOST_BYTES), file.getName()));
    }

    /** The ids of a text, with what the file adds to every text. */
    public long[] ids(String text) throws BundleException {
        return tokens(text).stream().mapToLong(Token::id).toArray();
    }

    List<Token> tokens(String text) throws BundleException {
        List<Token> tokens = new ArrayList<>();
        for (AddedTokens.Piece piece : added.pieces(Slice.of(text), normalizer)) {
            if (piece.isToken()) {
                tokens.add(new Token(piece.id(), piece.slice().text(), false));
            } else {
                for (Slice slice : preTokenizer.split(piece.slice())) {
                    tokens.addAll(model.tokens(slice.text()));
                }
            }
        }
        return template.around(tokens);
    }

    /** The id that stands for words that it does not know, for which a prompt is refused; -1 where none does. */
    int unknownId() {
        String unknown = model.unknown();
        int id = added.id(unknown);
        return id >= 0 || unknown.isEmpty() ? id : model.id(unknown);
    }

    private static Model model(Part part) throws BundleException {
        Model model;
        switch (part.text("type", "")) {
            case "WordLevel":
                model = new WordLevel(part);
                break;
            case "Unigram":
                model = new Unigram(part);
                break;
            case "BPE":
                model = new Bpe(part);
                break;
            default:
                throw part.unknown("the model '" + part.text("type", "") + "'");
        }
        part.finish();
        return model;
    }
}
