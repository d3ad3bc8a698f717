package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;

import java.io.File;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;

import org.junit.Test;
import org.junit.runner.RunWith;
import org.junit.runners.Parameterized;
import org.junit.runners.Parameterized.Parameter;
import org.junit.runners.Parameterized.Parameters;

/** The loop of a table has Python's bits at every step, for what the model is given and for what comes out. */
@RunWith(Parameterized.class)
public class SamplerTest {
    @Parameter
    public String name;

    @Parameter(1)
    public Map<String, Object> expected;

    private final File folder = Vectors.folder("tables");

    @Parameters(name = "{0}")
    public static Collection<Object[]> cases() {
        return Vectors.named(Vectors.<List<Map<String, Object>>>json(new File(Vectors.folder("tables"), "cases.json")));
    }

    @Test
    public void everyStepHasPythonsBits() throws Exception {
        SamplerTable table = SamplerTable.fromJson(expected.get("table"));
        float[] noise = floats("noise");
        float[] predictions = floats("predictions");
        float[] inputs = floats("inputs");
        float[] timesteps = floats("timesteps");
        float[] latents = floats("latents");
        int count = noise.length;
        int[] calls = {0};
        Sampler.Model model = (given, timestep) -> {
            int k = calls[0]++;
            Bits.assertSame("input " + k, row(inputs, k, count), given);
            assertEquals(timesteps[k], timestep, 0);
            return row(predictions, k, 2 * count);
        };
        double guidance = ((Number) expected.get("guidance")).doubleValue();
        float[] last = new Sampler(table, guidance).sample(model, noise,
                (k, stepped) -> Bits.assertSame("latents " + k, row(latents, k, count), stepped));
        Bits.assertSame("the last latents", row(latents, table.steps() - 1, count), last);
        assertEquals(table.steps(), calls[0]);
    }

    private float[] floats(String key) {
        return Vectors.floats(folder, expected.get(key));
    }

    private static float[] row(float[] values, int index, int count) {
        return Arrays.copyOfRange(values, index * count, (index + 1) * count);
    }
}
