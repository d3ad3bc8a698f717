package org.edgehadanorm.core.text;

import java.util.ArrayList;
import java.util.List;

import org.edgehadanorm.core.BundleException;

/** What stands before and after the tokens of a prompt: the post-processor of a tokenizer.json. */
final class Template {
    private final List<Token> before = new ArrayList<>();
    private final List<Token> after = new ArrayList<>();

    /** Nothing before and nothing after. */
    Template() {
    }

    /** Throws BundleException, which names it, for a post-processor that is not understood. */
    Template(Part part) throws BundleException {
        read(part);
    }

    List<Token> around(List<Token> tokens) {
        List<Token> all = new ArrayList<>(before);
        all.addAll(tokens);
        all.addAll(after);
        return all;
    }

    private void read(Part part) throws BundleException {
        String type = part.text("type");
        switch (type) {
            case "Sequence":
                for (Part processor : part.parts("processors")) {
                    Template inner = new Template(processor);
                    before.addAll(0, inner.before);
                    after.addAll(inner.after);
                }
                break;
            case "TemplateProcessing":
                readTemplate(part);
                break;
            case "RobertaProcessing":
                before.add(listed(part, "cls"));
                after.add(listed(part, "sep"));
                break;
            case "ByteLevel":
                break;
            default:
                throw part.unknown("the post-processor '" + type + "'");
        }
        for (String key : new String[] {"trim_offsets", "add_prefix_space", "use_regex", "pair"}) {
            part.get(key);  // changes no id of a single text
        }
        part.finish();
    }

    private void readTemplate(Part part) throws BundleException {
        Part special = part.part("special_tokens");
        boolean seen = false;
        for (Part piece : part.parts("single")) {
            if (piece.has("Sequence")) {
                if (seen || !piece.part("Sequence").text("id").equals("A")) {
                    throw part.unknown("a template of several texts");
                }
                seen = true;
            } else {
                for (Object id : special.part(piece.part("SpecialToken").text("id")).list("ids")) {
                    (seen ? after : before).add(special(id, part));
                }
            }
            piece.finish();
        }
        if (!seen) {
            throw part.unknown("a template without a text");
        }
    }

    /** [token, id]. */
    private static Token listed(Part part, String key) throws BundleException {
        List<?> pair = part.list(key);
        return special(pair.size() == 2 ? pair.get(1) : null, part);
    }

    private static Token special(Object id, Part part) throws BundleException {
        if (!(id instanceof Long)) {
            throw new BundleException(part.where() + " has a special token without an id; copy the bundle again");
        }
        return new Token(((Long) id).intValue(), "", true);
    }
}
