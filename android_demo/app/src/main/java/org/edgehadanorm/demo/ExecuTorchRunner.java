package org.edgehadanorm.demo;

import java.io.File;
import java.util.Arrays;
import java.util.Collections;
import java.util.Set;
import java.util.function.LongSupplier;

import org.edgehadanorm.core.Dtype;
import org.edgehadanorm.core.ModuleRunner;
import org.edgehadanorm.core.RunnerException;
import org.edgehadanorm.core.Tensor;
import org.pytorch.executorch.DType;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.ExecutorchRuntimeException;
import org.pytorch.executorch.Module;

/**
 * A program on the ExecuTorch runtime of the AAR; the only file that knows its classes. What the AAR has had since
 * 1.0.1 is all that it uses, so that another version is a change of gradle/libs.versions.toml alone.
 *
 * <p>Programs are mapped, not read: reading needs their size in private memory besides what XNNPACK packs.
 */
public final class ExecuTorchRunner implements ModuleRunner {
    /** Those whose backend is in the AAR. */
    private static final Set<String> TARGETS = Collections.singleton("xnnpack");
    private static final String NOT_UNDERSTOOD = "this app's ExecuTorch does not understand it and may be older than"
            + " what exported it. Build the app with a newer executorch-android, or export the bundle again";
    private static final String OTHER_INPUTS = "its inputs are not what the manifest says. Export the bundle again";

    private final File program;
    private final Module module;

    private ExecuTorchRunner(File program, Module module) {
        this.program = program;
        this.module = module;
    }

    /**
     * Loads programs that run on so many threads; 0 leaves it to the runtime, which takes half of the cores. free:
     * bytes of memory that the app can take at the moment, or 0.
     */
    public static Loader loader(int threads, LongSupplier free) {
        return new Loader() {
            @Override
            public Set<String> targets() {
                return TARGETS;
            }

            @Override
            public long free() {
                return free.getAsLong();
            }

            @Override
            public ModuleRunner load(File program, String... methods) throws RunnerException {
                return ExecuTorchRunner.load(program, threads, methods);
            }
        };
    }

    private static ExecuTorchRunner load(File program, int threads, String... methods) throws RunnerException {
        Module module = null;
        try {
            module = Module.load(program.getPath(), Module.LOAD_MODE_MMAP, threads);
            ExecuTorchRunner runner = new ExecuTorchRunner(program, module);
            // Methods are loaded when they are first run, which would count as time of a step.
            for (String method : methods) {
                runner.require(method);
                module.loadMethod(method);
            }
            return runner;
        } catch (RunnerException error) {
            module.destroy();
            throw error;
        } catch (RuntimeException | LinkageError | OutOfMemoryError error) {
            if (module != null) {
                module.destroy();
            }
            throw failed(program, "load", NOT_UNDERSTOOD, error);
        }
    }

    private void require(String method) throws RunnerException {
        if (!Arrays.asList(module.getMethods()).contains(method)) {
            throw new RunnerException(program.getName() + " has no method `" + method
                    + "`: export the bundle again with edge-hadanorm");
        }
    }

    @Override
    public Tensor[] run(String method, Tensor... inputs) throws RunnerException {
        try {
            require(method);
            EValue[] values = new EValue[inputs.length];
            for (int index = 0; index < inputs.length; index++) {
                values[index] = EValue.from(toRuntime(inputs[index]));
            }
            EValue[] results = module.execute(method, values);
            Tensor[] outputs = new Tensor[results.length];
            for (int index = 0; index < results.length; index++) {
                outputs[index] = fromRuntime(method, results[index]);
            }
            return outputs;
        } catch (RuntimeException | OutOfMemoryError error) {
            throw failed(program, "run `" + method + "` of", OTHER_INPUTS, error);
        }
    }

    @Override
    public void close() {
        module.destroy();
    }

    private static org.pytorch.executorch.Tensor toRuntime(Tensor tensor) {
        return tensor.dtype() == Dtype.FLOAT32
                ? org.pytorch.executorch.Tensor.fromBlob(tensor.floats(), tensor.shape())
                : org.pytorch.executorch.Tensor.fromBlob(tensor.longs(), tensor.shape());
    }

    private Tensor fromRuntime(String method, EValue value) throws RunnerException {
        if (value.isTensor()) {
            org.pytorch.executorch.Tensor tensor = value.toTensor();
            if (tensor.dtype() == DType.FLOAT) {
                return Tensor.of(tensor.getDataAsFloatArray(), tensor.shape());
            }
            if (tensor.dtype() == DType.INT64) {
                return Tensor.of(tensor.getDataAsLongArray(), tensor.shape());
            }
        }
        throw new RunnerException("`" + method + "` of " + program.getName()
                + " gives something else than float32 or int64 tensors: export the bundle again with edge-hadanorm");
    }

    /** invalid: what it means here that the runtime calls an argument invalid or not supported. */
    private static RunnerException failed(File program, String what, String invalid, Throwable error) {
        String hint = error instanceof ExecutorchRuntimeException
                ? hint(((ExecutorchRuntimeException) error).getErrorCode(), invalid)
                : hint(error);
        return new RunnerException("Cannot " + what + " " + program.getName() + ": " + hint, error);
    }

    /** What a runtime's error means to a person, and the way out. */
    private static String hint(int code, String invalid) {
        switch (code) {
            case ExecutorchRuntimeException.MEMORY_ALLOCATION_FAILED:
            case ExecutorchRuntimeException.DELEGATE_MEMORY_ALLOCATION_FAILED:
            case ExecutorchRuntimeException.OUT_OF_RESOURCES:
                return "there is not enough free memory. Close other apps, or take a smaller bundle";
            case ExecutorchRuntimeException.INVALID_PROGRAM:
            case ExecutorchRuntimeException.DELEGATE_INVALID_COMPATIBILITY:
            case ExecutorchRuntimeException.OPERATOR_MISSING:
            case ExecutorchRuntimeException.NOT_FOUND:
            case ExecutorchRuntimeException.NOT_IMPLEMENTED:
                return NOT_UNDERSTOOD + codeOf(code);
            case ExecutorchRuntimeException.INVALID_ARGUMENT:
            case ExecutorchRuntimeException.INVALID_TYPE:
            case ExecutorchRuntimeException.NOT_SUPPORTED:
                return invalid + codeOf(code);
            case ExecutorchRuntimeException.ACCESS_FAILED:
                return "the file cannot be read. Import the bundle again" + codeOf(code);
            default:
                return "ExecuTorch failed" + codeOf(code);
        }
    }

    private static String codeOf(int code) {
        return String.format(" (ExecuTorch error 0x%02x)", code);
    }

    private static String hint(Throwable error) {
        if (error instanceof OutOfMemoryError) {
            return "there is not enough free memory. Close other apps, or take a smaller bundle";
        }
        if (error instanceof LinkageError) {
            return "this app has no ExecuTorch for this processor; it needs a 64-bit system on ARM or x86 ("
                    + error.getClass().getSimpleName() + ")";
        }
        String message = String.valueOf(error.getMessage());
        return message.split("\n", 2)[0];
    }
}
