package org.edgehadanorm.demo;

import java.io.FilterInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InterruptedIOException;
import java.util.function.BooleanSupplier;

/** A stream that fails as soon as somebody wants it to stop. */
final class StoppableStream extends FilterInputStream {
    private final BooleanSupplier stopped;

    StoppableStream(InputStream in, BooleanSupplier stopped) {
        super(in);
        this.stopped = stopped;
    }

    @Override
    public int read() throws IOException {
        require();
        return super.read();
    }

    @Override
    public int read(byte[] bytes, int from, int count) throws IOException {
        require();
        return super.read(bytes, from, count);
    }

    private void require() throws IOException {
        if (stopped.getAsBoolean()) {
            throw new InterruptedIOException("stopped");
        }
    }
}
