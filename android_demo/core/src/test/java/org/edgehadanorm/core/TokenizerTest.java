package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;

import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.junit.runners.Parameterized;
import org.junit.runners.Parameterized.Parameter;
import org.junit.runners.Parameterized.Parameters;

import org.edgehadanorm.core.text.PromptTokenizer;
import org.edgehadanorm.core.text.Tokenizer;

/** Tokenizers of every family give the ids that Python gives, and refuse the prompts that it refuses. */
@RunWith(Parameterized.class)
public class TokenizerTest {
    @Parameter
    public String name;

    private File folder;
    private Map<String, List<Map<String, Object>>> expected;

    @Parameters(name = "{0}")
    public static Collection<String> names() {
        List<String> names = new ArrayList<>();
        for (File each : Vectors.folder("tokens").listFiles(File::isDirectory)) {
            names.add(each.getName());
        }
        return names;
    }

    @Before
    public void read() {
        folder = new File(Vectors.folder("tokens"), name);
        expected = Vectors.json(new File(folder, "cases.json"));
    }

    @Test
    public void textsHavePythonsIds() throws Exception {
        Tokenizer tokenizer = Tokenizer.read(new File(folder, "tokenizer.json"));
        for (Map<String, Object> each : expected.get("texts")) {
            assertEquals(Json.write(each), each.get("ids").toString(),
                    Arrays.toString(tokenizer.ids((String) each.get("text"))));
        }
    }

    @Test
    @SuppressWarnings("unchecked")
    public void promptsHavePythonsIdsAndRefusals() throws Exception {
        for (Map<String, Object> setting : expected.get("prompts")) {
            PromptTokenizer tokenizer = new PromptTokenizer(new File(folder, "tokenizer.json"),
                    ((Long) setting.get("length")).intValue(), ((Long) setting.get("pad_id")).intValue(),
                    (Boolean) setting.get("lower"), (String) setting.get("prefix"));
            for (Map<String, Object> each : (List<Map<String, Object>>) setting.get("answers")) {
                check(each, tokenizer, () -> tokenizer.ids((String) each.get("prompt")));
            }
            int most = ((Long) setting.get("kept")).intValue();
            for (Map<String, Object> each : (List<Map<String, Object>>) setting.get("negatives")) {
                check(each, tokenizer, () -> tokenizer.negativeIds((String) each.get("prompt"), most));
            }
        }
    }

    private interface Ids {
        long[] found() throws BundleException;
    }

    private static void check(Map<String, Object> each, PromptTokenizer tokenizer, Ids made) {
        String wanted = each.containsKey("ids") ? each.get("ids").toString() : kind(each.get("refusal"));
        assertEquals(Json.write(each), wanted, said(tokenizer, made));
    }

    /** Which of the two mistakes a message speaks of. */
    private static String kind(Object message) {
        String text = (String) message;
        return text.contains("does not know the word") ? "unknown" : text.replaceAll(".*: (\\d+ tokens,).*", "$1");
    }

    private static String said(PromptTokenizer tokenizer, Ids made) {
        try {
            long[] ids = tokenizer.padded(made.found());
            assertEquals(tokenizer.length(), ids.length);
            return Arrays.toString(ids);
        } catch (BundleException error) {
            assertFalse(error.getMessage(), error.getMessage().contains("\n"));
            return kind(error.getMessage());
        }
    }
}
