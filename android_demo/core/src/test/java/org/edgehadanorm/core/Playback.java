package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** A loader whose programs expect the calls that were recorded, in their order, and give what was given then. */
final class Playback implements ModuleRunner.Loader {
    private final File folder;
    private final List<Map<String, Object>> calls;
    private final List<String> loaded = new ArrayList<>();
    private int done;
    private String open = "";

    /** folder: of the tensors. */
    Playback(File folder, List<Map<String, Object>> calls) {
        this.folder = folder;
        this.calls = calls;
    }

    @Override
    public Set<String> targets() {
        return Vectors.TARGETS;
    }

    @Override
    public long free() {
        return 0;
    }

    @Override
    public ModuleRunner load(File program, String... methods) {
        assertEquals("loaded beside another program", "", open);
        open = program.getName();
        loaded.add(open);
        String name = open;
        return new ModuleRunner() {
            @Override
            public Tensor[] run(String method, Tensor... inputs) throws RunnerException {
                assertTrue(method + " is not loaded", Arrays.asList(methods).contains(method));
                assertEquals("a closed program runs", name, open);
                return answer(name, method, inputs);
            }

            @Override
            public void close() {
                assertEquals("closed twice", name, open);
                open = "";
            }
        };
    }

    /** The programs loaded, in their order. */
    List<String> loaded() {
        return loaded;
    }

    void assertDone() {
        assertEquals("calls", calls.size(), done);
        assertEquals("a program is left open", "", open);
    }

    private Tensor[] answer(String name, String method, Tensor[] inputs) throws RunnerException {
        assertFalse("one call too many: " + name + " " + method, done == calls.size());
        Map<String, Object> call = calls.get(done++);
        assertEquals(call.get("file") + "." + call.get("method"), name + "." + method);
        Tensor[] expected = tensors(call, "inputs");
        assertEquals(expected.length, inputs.length);
        for (int i = 0; i < inputs.length; i++) {
            Bits.assertSame("call " + done + ", " + name + "." + method + ", input " + i, expected[i], inputs[i]);
        }
        if (call.get("outputs") == null) {
            throw new RunnerException(method + " fails");
        }
        return tensors(call, "outputs");
    }

    @SuppressWarnings("unchecked")
    private Tensor[] tensors(Map<String, Object> call, String key) {
        List<Map<String, Object>> entries = (List<Map<String, Object>>) call.get(key);
        return entries.stream().map(entry -> Vectors.tensor(folder, entry)).toArray(Tensor[]::new);
    }
}
