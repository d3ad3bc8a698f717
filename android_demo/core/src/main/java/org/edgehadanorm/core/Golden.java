package org.edgehadanorm.core;

import java.io.File;
import java.util.Map;

/** The picture that the maker of a bundle drew, for a device to compare its own with. */
public final class Golden {
    private final File file;
    private final Request request;
    private final double psnrDb;

    Golden(File folder, Map<String, Object> entry) {
        file = new File(folder, (String) entry.get("file"));
        request = new Request((String) entry.get("prompt"), (String) entry.get("negative"), (Long) entry.get("seed"),
                (String) entry.get("plan"), ((Number) entry.get("guidance")).doubleValue());
        psnrDb = ((Number) entry.get("psnr_db")).doubleValue();
    }

    /** A PNG. */
    public File file() {
        return file;
    }

    /** What was asked for. */
    public Request request() {
        return request;
    }

    /** PSNR to it in dB that a device's own picture has at least. */
    public double psnrDb() {
        return psnrDb;
    }
}
