package org.edgehadanorm.demo;

import android.app.Application;
import android.content.pm.PackageManager;
import android.os.Handler;
import android.os.Looper;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.util.Optional;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** The process: it has the session, and with it whatever must outlive a screen. */
public final class DemoApplication extends Application {
    private static final String ASSET = BundleStore.REFERENCE + ".zip";
    private final ExecutorService worker = Executors.newSingleThreadExecutor(task -> new Thread(task, "session"));
    private final ExecutorService files = Executors.newSingleThreadExecutor(task -> new Thread(task, "files"));
    private Session session;
    private Saver saver;

    @Override
    public void onCreate() {
        super.onCreate();
        Handler main = new Handler(Looper.getMainLooper());
        DeviceFacts device = new DeviceFacts(this);
        session = new Session(new BundleStore(Api.privateFolder(this)), new Asset(),
                threads -> ExecuTorchRunner.loader(threads, device::freeMemory), Bitmaps::read, new PeakMemory(),
                worker, main::post);
        saver = new Saver(this, files, main::post);
    }

    Session session() {
        return session;
    }

    Saver saver() {
        return saver;
    }

    /** assets/reference.zip, which a build may have. */
    private final class Asset implements BundleStore.Packed {
        @Override
        public String version() {
            try {
                return String.valueOf(getPackageManager().getPackageInfo(getPackageName(), 0).lastUpdateTime);
            } catch (PackageManager.NameNotFoundException error) {
                return "";
            }
        }

        @Override
        public Optional<InputStream> open() throws IOException {
            try {
                return Optional.of(getAssets().open(ASSET));
            } catch (FileNotFoundException error) {
                return Optional.empty();
            }
        }
    }
}
