package org.edgehadanorm.core;

import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.util.Collection;
import java.util.List;
import java.util.Map;

import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import org.junit.runner.RunWith;
import org.junit.runners.Parameterized;
import org.junit.runners.Parameterized.Parameter;
import org.junit.runners.Parameterized.Parameters;

import org.edgehadanorm.core.text.Tokenizer;

/** A tokenizer.json with a part that is not understood is refused, and the part is named. */
@RunWith(Parameterized.class)
public class TokenizerRefusalTest {
    @Rule
    public TemporaryFolder scratch = new TemporaryFolder();

    @Parameter
    public String part;

    @Parameter(1)
    public Map<String, Object> expected;

    @Parameters(name = "{0}")
    public static Collection<Object[]> parts() {
        File file = new File(Vectors.folder("tokens"), "refused.json");
        return Vectors.named(Vectors.<List<Map<String, Object>>>json(file));
    }

    @Test
    public void thePartIsNamed() throws IOException {
        File file = Files.write(scratch.newFile("tokenizer.json"), (String) expected.get("file"));
        BundleException error = assertThrows(BundleException.class, () -> Tokenizer.read(file));
        assertTrue(error.getMessage(), error.getMessage().contains(part));
        assertTrue(error.getMessage(), error.getMessage().startsWith("tokenizer.json"));
    }
}
